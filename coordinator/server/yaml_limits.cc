#include "coordinator/server/yaml_limits.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <sstream>

namespace lockstep::coordinator {
namespace {

struct OverLimit {
  std::string what;
};

// Sees the text as a stream of events and builds nothing; leaves at the first thing over a limit.
class Scan final : public YAML::EventHandler {
 public:
  explicit Scan(int max_depth) : max_depth_(max_depth) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { check(mark, anchor); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail(mark, "an alias (*) is not allowed here: write the value out");
  }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                const std::string&) override {
    check(mark, anchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    enter(mark, anchor);
  }
  void OnSequenceEnd() override { --depth_; }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    enter(mark, anchor);
  }
  void OnMapEnd() override { --depth_; }

 private:
  [[noreturn]] static void fail(const YAML::Mark& mark, const std::string& what) {
    throw OverLimit{fmt::format("{}:{}: {}", mark.line + 1, mark.column + 1, what)};
  }
  static void check(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != 0) fail(mark, "an anchor (&) is not allowed here: write the value out");
  }
  void enter(const YAML::Mark& mark, YAML::anchor_t anchor) {
    check(mark, anchor);
    if (++depth_ > max_depth_) {
      fail(mark, fmt::format("expected at most {} levels of nesting", max_depth_));
    }
  }

  int max_depth_;
  int depth_ = 0;
};

}  // namespace

std::optional<std::string> yaml_over_limit(std::string_view text, int max_depth) {
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    Scan scan(max_depth);
    // The reader of configurations takes one document. To ask for more could take for ever: before
    // some wrong texts this parser says "one more" again and again.
    parser.HandleNextDocument(scan);
  } catch (const OverLimit& limit) {
    return limit.what;
  } catch (const YAML::Exception&) {
    return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace lockstep::coordinator
