#include "runtime/metrics/layer_lines.h"

#include <fmt/format.h>

#include "core/json_text.h"

namespace lockstep::runtime {

namespace {

using core::json_number;

std::string gradient_members(const Measured& m) {
  return fmt::format(
      R"("name":{},"grad_norm":{},"grad_max":{},"zero_share":{},"subnormal_share":{},)"
      R"("fp16_underflow_share":{},"fp16_overflow_share":{},"weight_norm":{},"update_ratio":{})",
      core::json_string(m.name), json_number(m.grad_norm), json_number(m.grad_max),
      json_number(m.zero_share), json_number(m.subnormal_share),
      json_number(m.fp16_underflow_share), json_number(m.fp16_overflow_share),
      json_number(m.weight_norm), json_number(m.update_ratio));
}

}  // namespace

std::string layers_members(const LayerReport& report) {
  std::string text = fmt::format(
      R"("step":{},"loss_scale":{},"advised_loss_scale":{},"fp16_underflow_share":{},)"
      R"("fp16_overflow_share":{},"applied_steps":{},"clipped_steps":{},"layers":[)",
      report.step, json_number(report.loss_scale), json_number(report.advised_loss_scale),
      json_number(report.fp16_underflow_share), json_number(report.fp16_overflow_share),
      report.applied_steps, report.clipped_steps);
  const char* separator = "";
  for (const Measured& m : report.layers) {
    text += fmt::format(R"({}{{{},"activation_rms":{},"activation_max":{},)"
                        R"("attention_logit_max":{},"attention_entropy":{},"dead_share":{}}})",
                        separator, gradient_members(m), json_number(m.activation_rms),
                        json_number(m.activation_max), json_number(m.attention_logit_max),
                        json_number(m.attention_entropy), json_number(m.dead_share));
    separator = ",";
  }
  return text + "]";
}

std::string histogram_members(const LayerReport& report) {
  std::string text =
      fmt::format(R"("step":{},"unit":{},"tensors":[)", report.step, json_number(report.unit));
  for (std::size_t i = 0; i < report.tensors.size(); ++i) {
    const GradientHistogram& h = report.histograms[i];
    text += fmt::format(
        R"({}{{{},"elements":{},"zeros":{},"first_exponent":{},"negative":[{}],"positive":[{}]}})",
        i == 0 ? "" : ",", gradient_members(report.tensors[i]), h.elements, h.zeros,
        h.first_exponent, fmt::join(h.negative, ","), fmt::join(h.positive, ","));
  }
  return text + "]";
}

}  // namespace lockstep::runtime
