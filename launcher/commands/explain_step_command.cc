#include "launcher/commands/explain_step_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>

#include "core/error.h"
#include "runtime/data/open_dataset.h"
#include "runtime/health/run_history.h"
#include "runtime/plan/memory_plan.h"

namespace lockstep::launcher {
namespace {

using nlohmann::ordered_json;

struct ExplainStepOptions {
  std::string run;
  std::int64_t step = 0;
  OutputFormat format = OutputFormat::kTable;
};

constexpr std::size_t kLargest = 5;  // layers that are named

const runtime::StepPoint& find_step(const runtime::RunHistory& history, std::int64_t step) {
  for (const runtime::StepPoint& point : history.steps) {
    if (point.step == step) return point;
  }
  const bool any = !history.steps.empty();
  throw core::Error(
      core::ErrorKind::kConfig,
      fmt::format(
          "step {}: expected a step that {}/metrics.jsonl tells of ({}; one in {}, by "
          "metrics.every_steps, and all that were not applied)",
          step, history.directory,
          any ? fmt::format("{} to {}", history.steps.front().step, history.steps.back().step)
              : "none so far",
          history.config.metrics.every_steps));
}

// NaN becomes null.
ordered_json number(double value) {
  return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr);
}

std::string why(const runtime::RunHistory& history, const runtime::StepPoint& point) {
  if (point.applied()) {
    return point.clip_coefficient < 1.0 ? "applied, after clipping" : "applied as it was";
  }
  if (point.outcome == "overflow") {
    return fmt::format("skipped by all ranks: the gradient of {} was not finite{}",
                       point.overflow_tensor.empty() ? "some tensor" : point.overflow_tensor,
                       history.config.precision.loss_scale.mode == runtime::LossScaleMode::kNone
                           ? ""
                           : fmt::format(" at loss scale {}", point.loss_scale));
  }
  if (point.outcome == "diverged") return "not applied: the loss of a micro-batch was not finite";
  if (point.outcome == "spike") return "not applied: loss or gradient norm leapt";
  if (point.outcome == "no_tokens") return "not applied: no token of the batch is a target";
  if (point.outcome == "left_out") return "left out by a rollback: nothing was computed";
  return "not applied";
}

// Of the step itself, or of the last step before it that has a `layers` line.
ordered_json layers_json(const runtime::RunHistory& history, std::int64_t step) {
  const auto behind = std::upper_bound(
      history.layers.begin(), history.layers.end(), step,
      [](std::int64_t s, const runtime::LayerReport& line) { return s < line.step; });
  if (behind == history.layers.begin()) return nullptr;
  const runtime::LayerReport& line = *(behind - 1);
  std::vector<runtime::Measured> layers = line.layers;
  std::erase_if(layers, [](const runtime::Measured& m) { return std::isnan(m.grad_norm); });
  std::sort(layers.begin(), layers.end(),
            [](const auto& a, const auto& b) { return a.grad_norm > b.grad_norm; });
  if (layers.size() > kLargest) layers.resize(kLargest);
  ordered_json largest = ordered_json::array();
  for (const runtime::Measured& m : layers) {
    largest.push_back({{"name", m.name},
                       {"grad_norm", number(m.grad_norm)},
                       {"update_ratio", number(m.update_ratio)}});
  }
  return {{"step", line.step}, {"largest", largest}};
}

// Of the `timing` line whose mean the step is part of.
ordered_json timing_json(const runtime::RunHistory& history, std::int64_t step) {
  const auto line = std::lower_bound(
      history.timings.begin(), history.timings.end(), step,
      [](const runtime::TimingPoint& point, std::int64_t s) { return point.step < s; });
  if (line == history.timings.end() || line->compute.empty()) return nullptr;
  const auto busy = [&](std::size_t r) { return line->data[r] + line->compute[r]; };
  std::size_t slowest = 0;
  for (std::size_t r = 1; r < line->compute.size(); ++r)
    slowest = busy(r) > busy(slowest) ? r : slowest;
  const bool data = line->data[slowest] > line->compute[slowest];
  return {{"up_to_step", line->step},
          {"slowest_rank", slowest},
          {"phase", data ? "data" : "compute"},
          {"data_seconds", line->data[slowest]},
          {"compute_seconds", line->compute[slowest]},
          {"wait_seconds", line->wait[slowest]}};
}

// What one rank sends in a step by the formulas of its sharding; nothing measured.
ordered_json bytes_json(const runtime::RunHistory& history) {
  const runtime::MemoryPlan plan = runtime::plan_memory(history.config, history.ranks, 1);
  return {
      {"ranks", history.ranks}, {"reduced", plan.bytes_reduced}, {"gathered", plan.bytes_gathered}};
}

ordered_json sequences_json(const runtime::RunHistory& history, const runtime::StepPoint& point) {
  if (point.data_position < 0) return nullptr;
  const auto data = runtime::open_training_data(history.config);
  ordered_json sequences = ordered_json::array();
  for (std::int64_t i = 0; i < history.config.batch.global; ++i) {
    const auto place = data->locate(static_cast<std::uint64_t>(point.data_position + i));
    sequences.push_back({{"file", data->files()[place.file].path().string()},
                         {"first_token", place.first_token},
                         {"tokens", history.config.model.context}});
  }
  return sequences;
}

// The data may have gone since.
void add_sequences(const runtime::RunHistory& history, const runtime::StepPoint& point,
                   ordered_json& document) {
  try {
    document["sequences"] = sequences_json(history, point);
  } catch (const core::Error& error) {
    document["sequences"] = nullptr;
    document["sequences_error"] = error.what();
  }
}

ordered_json explain(const runtime::RunHistory& history, std::int64_t step) {
  const runtime::StepPoint& point = find_step(history, step);
  ordered_json document = {{"run", history.directory},
                           {"step", step},
                           {"outcome", point.outcome},
                           {"applied", point.applied()},
                           {"why", why(history, point)},
                           {"loss", number(point.loss)},
                           {"grad_norm", number(point.grad_norm)},
                           {"clip_coefficient", number(point.clip_coefficient)},
                           {"clipped_norm", number(point.grad_norm * point.clip_coefficient)},
                           {"learning_rate", number(point.learning_rate)},
                           {"loss_scale", number(point.loss_scale)},
                           {"tokens", point.tokens},
                           {"step_seconds", number(point.step_seconds)}};
  if (!point.overflow_bucket.empty()) document["overflow_bucket"] = point.overflow_bucket;
  if (!point.overflow_tensor.empty()) document["overflow_tensor"] = point.overflow_tensor;
  document["layers"] = layers_json(history, step);
  document["timing"] = timing_json(history, step);
  document["bytes"] = bytes_json(history);
  add_sequences(history, point, document);
  const bool bundle = std::binary_search(history.replays.begin(), history.replays.end(), step);
  if (bundle) document["replay"] = fmt::format("{}/replay/step-{:08d}", history.directory, step);
  return document;
}

std::string text_of(const ordered_json& value) {
  return value.is_null() ? "-" : value.dump();
}

void print_sequences(const ordered_json& d, std::ostream& out) {
  if (d.contains("sequences_error"))
    out << "sequences: " << d["sequences_error"].get<std::string>() << "\n";
  for (const ordered_json& s : d["sequences"]) {
    out << fmt::format("sequence: tokens {} to {} of {}\n", s["first_token"].get<std::uint64_t>(),
                       s["first_token"].get<std::uint64_t>() + s["tokens"].get<std::uint64_t>(),
                       s["file"].get<std::string>());
  }
}

void print(const ordered_json& d, std::ostream& out) {
  out << fmt::format("step {}: {}\n", d["step"].dump(), d["why"].get<std::string>());
  out << fmt::format(
      "loss {}, gradient norm {} before clipping and {} after, learning rate {}, "
      "loss scale {}\n",
      text_of(d["loss"]), text_of(d["grad_norm"]), text_of(d["clipped_norm"]),
      text_of(d["learning_rate"]), text_of(d["loss_scale"]));
  if (const ordered_json& layers = d["layers"]; !layers.is_null()) {
    out << fmt::format("largest gradients (step {}):\n", layers["step"].dump());
    for (const ordered_json& layer : layers["largest"]) {
      out << fmt::format("  {:<12} norm {:<12} update / weights {}\n",
                         layer["name"].get<std::string>(), text_of(layer["grad_norm"]),
                         text_of(layer["update_ratio"]));
    }
  }
  if (const ordered_json& t = d["timing"]; !t.is_null()) {
    out << fmt::format(
        "slowest rank {}, most of it in {}: data {} s, compute {} s, waiting {} s a step\n",
        t["slowest_rank"].dump(), t["phase"].get<std::string>(), t["data_seconds"].dump(),
        t["compute_seconds"].dump(), t["wait_seconds"].dump());
  }
  const ordered_json& bytes = d["bytes"];
  out << fmt::format(
      "by its sharding each of {} ranks sends {} bytes of gradients and {} of "
      "parameters\n",
      bytes["ranks"].dump(), bytes["reduced"].dump(), bytes["gathered"].dump());
  print_sequences(d, out);
  if (d.contains("replay")) out << "lockstep replay " << d["replay"].get<std::string>() << "\n";
}

}  // namespace

void add_explain_step_command(CLI::App& app, CommandContext& context) {
  CLI::App* command =
      app.add_subcommand("explain-step", "say what was decided in a step of a run, and from what");
  auto options = std::make_shared<ExplainStepOptions>();
  command->add_option("run", options->run, "a run's output directory, also while it runs")
      ->required()
      ->option_text("RUN");
  command->add_option("step", options->step, "as in metrics.jsonl")->required()->option_text("N");
  add_output_option(*command, options->format);
  set_action(*command, context, [options, &context] {
    const runtime::RunHistory history = runtime::read_run_history(options->run);
    const ordered_json document = explain(history, options->step);
    if (options->format == OutputFormat::kJson) {
      context.out << document.dump() << "\n";
    } else {
      print(document, context.out);
    }
    return 0;
  });
}

}  // namespace lockstep::launcher
