// The manifest of a checkpoint: as it is, and with a hash of its own that fits, because an altered
// one is refused before its fields are looked at.
#include <nlohmann/json.hpp>

#include "core/hash.h"
#include "runtime/checkpoint/manifest.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace lockstep;

void read_manifest_text(const std::string& text) {
  fuzz::may_refuse(core::ErrorKind::kData, [&] {
    const runtime::ParsedManifest parsed = runtime::parse_manifest(text, "manifest.json");
    const std::string again = runtime::manifest_text(parsed.state, parsed.files);
    const runtime::ParsedManifest second = runtime::parse_manifest(again, "again.json");
    fuzz::require(runtime::manifest_text(second.state, second.files) == again,
                  "the manifest reads back changed");
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(fuzz::text_of(data, size));
  read_manifest_text(text);
  auto json = nlohmann::ordered_json::parse(text, nullptr, false);
  if (!json.is_object()) return 0;
  constexpr auto kReplace = nlohmann::ordered_json::error_handler_t::replace;
  json.erase("xxh3");
  json["xxh3"] = core::to_hex(core::hash64(json.dump(2, ' ', false, kReplace)));
  read_manifest_text(json.dump(2, ' ', false, kReplace) + "\n");
  return 0;
}
