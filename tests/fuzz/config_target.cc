// The config reader: text, and an override behind a zero byte. What is accepted must say the same
// again when written out and read back.
#include "runtime/config/dump_config.h"
#include "runtime/config/load_config.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace lockstep;
  const std::string_view input = fuzz::text_of(data, size);
  const std::size_t end = input.find('\0');
  const std::string_view text = input.substr(0, end);
  std::vector<std::string> overrides;
  if (end != std::string_view::npos) overrides.emplace_back(input.substr(end + 1));
  fuzz::may_refuse(core::ErrorKind::kConfig, [&] {
    const runtime::Config config = runtime::parse_config(text, "fuzz.yaml", overrides);
    const std::string resolved = runtime::to_yaml(config);
    const runtime::Config again = runtime::parse_config(resolved, "resolved.yaml");
    fuzz::require(runtime::to_yaml(again) == resolved, "the resolved config reads back as another");
    fuzz::require(runtime::fingerprint(again) == runtime::fingerprint(config),
                  "the resolved config has another fingerprint");
  });
  return 0;
}
