#pragma once

#include "runtime/data/tokenizer/tokenizer.h"

namespace lockstep::runtime {

// One token for each byte: vocabulary 256, {"type":"bytes"}.
class ByteTokenizer final : public Tokenizer {
 public:
  std::int64_t vocab() const override { return 256; }
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::size_t cut_before(std::string_view text, std::size_t at) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::string description() const override;
  std::string tokenizer_json() const override;
};

}  // namespace lockstep::runtime
