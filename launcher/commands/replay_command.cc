#include "launcher/commands/replay_command.h"

#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "core/counted.h"
#include "core/log.h"
#include "core/memory.h"
#include "launcher/run_description.h"
#include "runtime/replay/replay_step.h"

namespace lockstep::launcher {
namespace {

using Json = nlohmann::ordered_json;

struct ReplayOptions {
  std::string bundle;
  int threads = 0;
  OutputFormat format = OutputFormat::kTable;
};

Json to_json(const runtime::ReplayPlace& place) {
  Json json;
  if (place.rank >= 0) json = {{"rank", place.rank}, {"micro_batch", place.micro_batch}};
  json["tensor"] = place.tensor;
  if (place.sequence >= 0) {
    json["sequence"] = place.sequence;
    json["position"] = place.position;
  }
  json["element"] = place.element;
  return json;
}

Json to_json(const std::vector<runtime::ReplayExtent>& layers) {
  Json list = Json::array();
  for (const runtime::ReplayExtent& layer : layers) {
    Json json = {{"layer", layer.layer},
                 {"max", layer.extent.largest},
                 {"inf", layer.extent.inf},
                 {"nan", layer.extent.nan}};
    if (!layer.place.tensor.empty()) json["first"] = to_json(layer.place);
    list.push_back(std::move(json));
  }
  return list;
}

Json to_json(const runtime::ReplayBundle& bundle, const runtime::ReplayResult& result) {
  Json json = {{"bundle", bundle.directory},
               {"step", bundle.record.step},
               {"outcome", bundle.record.outcome},
               {"ranks", bundle.record.world_size()},
               {"loss_scale", bundle.record.loss_scale},
               {"weights", to_json(result.weights)},
               {"activations", to_json(result.activations)},
               {"gradients", to_json(result.gradients)},
               {"summed_gradients", to_json(result.sums)},
               {"numbers", Json::array()},
               {"findings", Json::array()}};
  for (const runtime::ReplayComparison& number : result.numbers) {
    json["numbers"].push_back({{"name", number.name},
                               {"recorded", number.recorded},
                               {"replayed", number.replayed},
                               {"same_bits", number.same()},
                               {"relative_difference", number.relative_difference()}});
  }
  for (const runtime::ReplayFinding& finding : result.findings) {
    json["findings"].push_back(
        {{"name", finding.name}, {"recorded", finding.recorded}, {"replayed", finding.replayed}});
  }
  json["same_build"] = result.same_build;
  json["bits_must_be_equal"] = result.must_be_equal;
  json["reproduced"] = result.reproduced();
  return json;
}

std::string to_text(const runtime::ReplayPlace& place) {
  if (place.tensor.empty()) return "";
  std::string text = place.tensor;
  if (place.sequence >= 0) {
    text += fmt::format(" (sequence {}, token {}, channel {})", place.sequence, place.position,
                        place.element);
  } else {
    text += fmt::format("[{}]", place.element);
  }
  if (place.rank >= 0)
    text += fmt::format(", rank {}, micro-batch {}", place.rank, place.micro_batch);
  return text;
}

void print_extents(const char* title, const std::vector<runtime::ReplayExtent>& layers,
                   std::ostream& out) {
  out << fmt::format("\n{:<24}{:>14}{:>10}{:>10}  first that is not finite\n", title, "max |x|",
                     "inf", "nan");
  for (const runtime::ReplayExtent& layer : layers) {
    out << fmt::format("{:<24}{:>14.6g}{:>10}{:>10}  {}\n", layer.layer, layer.extent.largest,
                       layer.extent.inf, layer.extent.nan, to_text(layer.place));
  }
}

void print_sums(const runtime::ReplayResult& result, std::ostream& out) {
  out << fmt::format("\n{:<24}{:>14}{:>10}{:>10}\n", "summed gradients", "max |x|", "inf", "nan");
  for (const runtime::ReplayExtent& layer : result.sums) {
    out << fmt::format("{:<24}{:>14.6g}{:>10}{:>10}\n", layer.layer, layer.extent.largest,
                       layer.extent.inf, layer.extent.nan);
  }
}

std::string number_text(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : "not finite";
}

void print_comparison(const runtime::ReplayResult& result, std::ostream& out) {
  out << fmt::format("\n{:<34}{:>24}{:>24}  difference\n", "", "recorded", "replayed");
  for (const runtime::ReplayComparison& number : result.numbers) {
    out << fmt::format("{:<34}{:>24}{:>24}  {}\n", number.name, number_text(number.recorded),
                       number_text(number.replayed),
                       number.same()
                           ? std::string(std::isfinite(number.replayed) ? "same bits" : "same")
                           : fmt::format("relative {:.2e}", number.relative_difference()));
  }
  for (const runtime::ReplayFinding& finding : result.findings) {
    const bool same = finding.recorded == finding.replayed;
    if (same && finding.recorded == "none") continue;
    out << fmt::format(
        "{}: {}\n", finding.name,
        same ? finding.recorded
             : fmt::format("recorded {}; replayed {}", finding.recorded, finding.replayed));
  }
}

std::string verdict(const runtime::ReplayResult& result) {
  if (!result.reproduced()) {
    return result.same_build ? "NOT reproduced: memory or processor of a rank may be at fault, or "
                               "its parameters differed from rank 0's"
                             : "NOT reproduced; the bundle was written by another build";
  }
  if (result.all_same()) return "reproduced bit for bit";
  return fmt::format("reproduced within {:g}", result.tolerance);
}

void print(const runtime::ReplayBundle& bundle, const runtime::ReplayResult& result,
           std::ostream& out) {
  const runtime::ReplayRecord& record = bundle.record;
  out << fmt::format("step {}: {}{}; {}, {} micro-batches of {}, loss scale {}, written by {}\n",
                     record.step, record.outcome, record.stopped ? ", which ended the run" : "",
                     core::counted(record.world_size(), "rank"),
                     bundle.config.batch.global / bundle.config.batch.micro,
                     bundle.config.batch.micro, record.loss_scale, record.build);
  print_extents("weights", result.weights, out);
  print_extents("activations, forward", result.activations, out);
  print_extents("gradients, backward", result.gradients, out);
  print_sums(result, out);
  print_comparison(result, out);
  out << "\n" << verdict(result) << "\n";
}

// Exit code 0: the step came out as recorded; 1: it did not.
int replay(const ReplayOptions& options, const CommandContext& context) {
  const runtime::ReplayBundle bundle = runtime::read_replay_bundle(options.bundle);
  const int threads = options.threads > 0 ? options.threads : threads_of_rank(runtime::Config{}, 1);
  core::MemoryTracker memory;
  core::Logger log(0, 1, core::LogLevel::kWarning);
  const runtime::ReplayResult result = runtime::replay_step(bundle, threads, memory, log);
  if (options.format == OutputFormat::kJson) {
    context.out << to_json(bundle, result).dump() << "\n";
  } else {
    print(bundle, result, context.out);
  }
  return result.reproduced() ? 0 : 1;
}

}  // namespace

void add_replay_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "replay", "compute a step that went wrong again, from its bundle, in one process");
  auto options = std::make_shared<ReplayOptions>();
  command->add_option("bundle", options->bundle, "a directory OUTPUT/replay/step-00000123")
      ->required()
      ->option_text("BUNDLE");
  command->add_option("--threads", options->threads, "CPU threads; they change no bit")
      ->check(CLI::Range(1, 4096).description(""))
      ->option_text("N");
  add_output_option(*command, options->format);
  set_action(*command, context, [options, &context] { return replay(*options, context); });
}

}  // namespace lockstep::launcher
