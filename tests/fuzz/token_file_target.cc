// Token files (raw and llm.c) and the meta.json of a prepared directory.
#include <vector>

#include "runtime/data/prepared_meta.h"
#include "runtime/data/token_file.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace lockstep;

void read_tokens(const std::string& path, core::DType raw_type) {
  const runtime::TokenFile file(path, raw_type, runtime::DataSplit::kTrain);
  fuzz::require(file.tokens() > 0, "an accepted file without tokens");
  std::vector<std::int32_t> ids(static_cast<std::size_t>(file.tokens()));
  file.read(0, ids);
  const auto range = file.id_range();
  fuzz::require(range.smallest <= range.largest, "no range of ids");
  file.check_ids(0, file.tokens(), std::int64_t{range.largest} + 1);
  fuzz::may_refuse(core::ErrorKind::kData, [&] { file.check_ids(0, file.tokens(), 50257); });
  fuzz::require(file.fingerprint().same_contents(file.fingerprint()), "two fingerprints");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::MemoryFile file;
  static const fuzz::LinkDirectory prepared(runtime::kMetaFile, file);
  file.fill(fuzz::text_of(data, size));
  for (const core::DType type : {core::DType::kU16, core::DType::kU32})
    fuzz::may_refuse(core::ErrorKind::kData, [&] { read_tokens(file.path(), type); });
  fuzz::may_refuse(core::ErrorKind::kData, [&] {
    const runtime::PreparedMeta meta = runtime::read_prepared_meta(prepared.path());
    file.fill(runtime::to_json(meta));
    const runtime::PreparedMeta again = runtime::read_prepared_meta(prepared.path());
    fuzz::require(runtime::to_json(again) == runtime::to_json(meta),
                  "meta.json reads back changed");
  });
  return 0;
}
