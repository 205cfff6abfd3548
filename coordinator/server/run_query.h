#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/model/run.h"

// What ListRuns and WatchRuns may ask for: which runs, in which order, which page.
namespace lockstep::coordinator {

// A filter over runs. Fields and what they compare with:
//   state         a state's name; = !=
//   owner, display_name, uid, notes   text; = != and : (contains)
//   label.KEY     text; = != : ; "label.KEY:*" asks whether the label is there
//   priority, restart_count           whole number; all but :
//   hold, suspect true or false; = !=
//   create_time, update_time, end_time   RFC 3339; all but : ; a run without it compares false
class RunFilter {
 public:
  RunFilter();  // matches every run
  // Throws core::Error(kConfig): what was expected, found, and where.
  explicit RunFilter(std::string_view text);
  ~RunFilter();
  RunFilter(RunFilter&&) noexcept;
  RunFilter& operator=(RunFilter&&) noexcept;

  bool matches(const Run& run) const;

 private:
  struct Term;
  std::unique_ptr<Term> root_;
};

// "create_time", "priority", "state" or "display_name", each with " desc"; "" is "create_time
// desc". Runs that are equal in the field are in order of their ids, in the same direction.
class RunOrder {
 public:
  enum class Field : std::uint8_t { kCreateTime, kPriority, kState, kDisplayName };

  RunOrder() = default;
  explicit RunOrder(std::string_view text);  // throws core::Error(kConfig)

  // What `run` is sorted by, as text; with the id, all that a page token must remember.
  std::string key_of(const Run& run) const;
  bool before(const Run& a, const Run& b) const;
  // Is `run` behind the place that key_of and id name? The run there need not exist any more.
  bool behind(const Run& run, std::string_view key, std::string_view id) const;

 private:
  int compare(const Run& run, std::string_view key) const;

  Field field_ = Field::kCreateTime;
  bool descending_ = true;
};

// "2026-11-21T01:02:03.5Z" or with an offset; throws core::Error(kConfig).
std::int64_t parse_rfc3339(std::string_view text);

}  // namespace lockstep::coordinator
