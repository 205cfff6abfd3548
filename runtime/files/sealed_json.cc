#include "runtime/files/sealed_json.h"

#include "core/hash.h"

namespace lockstep::runtime {

std::string sealed_text(nlohmann::ordered_json json) {
  const std::string bare = json.dump(2);
  json["xxh3"] = core::to_hex(core::hash64(bare));
  return json.dump(2) + "\n";
}

bool is_sealed(nlohmann::ordered_json json, const std::string& text) {
  json.erase("xxh3");
  return sealed_text(std::move(json)) == text;
}

}  // namespace lockstep::runtime
