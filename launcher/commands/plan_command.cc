#include "launcher/commands/plan_command.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>

#include "core/counted.h"
#include "launcher/cluster_file.h"
#include "launcher/cluster_report.h"
#include "launcher/run_description.h"
#include "models/parametrization.h"
#include "runtime/config/load_config.h"
#include "runtime/config/tensor_rules.h"
#include "runtime/plan/memory_advice.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/plan/mup_table.h"
#include "runtime/simulate/muon_cost.h"

namespace lockstep::launcher {
namespace {

struct PlanOptions {
  std::string file;
  std::vector<std::string> overrides;
  int ranks = 1;
  std::uint64_t device_memory = 0;  // bytes that one rank may take; 0: memory.limit_mib
  std::string cluster;              // file; empty: memory only
  Scaling scaling = Scaling::kStrong;
  OutputFormat format = OutputFormat::kTable;
};

const char* name_of(runtime::GradSync sync) {
  return sync == runtime::GradSync::kEveryRound ? "every_round" : "boundary";
}

nlohmann::ordered_json to_json(const runtime::MemoryPlan& plan) {
  nlohmann::ordered_json regions;
  for (const runtime::PlannedRegion& region : plan.regions)
    regions[region.name] = region.bytes;
  nlohmann::ordered_json json = {{"ranks", plan.world_size},
                                 {"zero_stage", plan.zero_stage},
                                 {"grad_sync", name_of(plan.grad_sync)},
                                 {"bytes_per_rank", plan.total()},
                                 {"regions", regions},
                                 {"gradient_bytes_sent_per_step", plan.bytes_reduced},
                                 {"gather_bytes_sent_per_step", plan.bytes_gathered}};
  if (plan.device_bytes() > 0) json["device_bytes_per_rank"] = plan.device_bytes();
  return json;
}

// The same training under every stage and grad_sync, the one that the config asks for first.
std::vector<runtime::MemoryPlan> all_plans(const runtime::Config& config, int ranks, int threads) {
  std::vector<runtime::MemoryPlan> plans = {runtime::plan_memory(config, ranks, threads)};
  for (int stage = 0; stage <= 2; ++stage) {
    for (const auto sync : {runtime::GradSync::kEveryRound, runtime::GradSync::kBoundary}) {
      if (config.run.reproducible == runtime::Reproducible::kRanks &&
          sync == runtime::GradSync::kBoundary) {
        continue;
      }
      runtime::Config other = config;
      other.parallel.zero_stage = stage;
      other.parallel.grad_sync = sync;
      plans.push_back(runtime::plan_memory(other, ranks, threads));
    }
  }
  return plans;
}

void print_comparison(const std::vector<runtime::MemoryPlan>& plans, std::ostream& out) {
  out << fmt::format("\n{:<7}{:<14}{:>14}{:>28}{:>28}\n", "stage", "grad_sync", "MiB per rank",
                     "gradient MiB sent a step", "gathered MiB sent a step");
  const auto mebibytes = [](std::size_t bytes) { return static_cast<double>(bytes) / 1048576.0; };
  for (std::size_t i = 1; i < plans.size(); ++i) {
    const runtime::MemoryPlan& plan = plans[i];
    const bool asked =
        plan.zero_stage == plans[0].zero_stage && plan.grad_sync == plans[0].grad_sync;
    out << fmt::format("{:<7}{:<14}{:>14.2f}{:>28.2f}{:>28.2f}{}\n", plan.zero_stage,
                       name_of(plan.grad_sync), mebibytes(plan.total()),
                       mebibytes(plan.bytes_reduced), mebibytes(plan.bytes_gathered),
                       asked ? "  <- this configuration" : "");
  }
}

// Whether the plan fits what a rank may take, and if not, what would.
struct Fit {
  std::uint64_t budget = 0;  // bytes; 0: nobody asked
  bool fits = true;
  std::vector<runtime::MemoryAdvice> advice;
  std::optional<runtime::MemorySetting> first;  // that fits
};

Fit fit_of(const PlanOptions& options, const runtime::Config& config, std::uint64_t needed,
           int threads) {
  Fit fit;
  fit.budget = options.device_memory > 0
                   ? options.device_memory
                   : static_cast<std::uint64_t>(config.memory.limit_mib * 1048576.0);
  if (fit.budget == 0) return fit;
  fit.fits = needed <= fit.budget;
  fit.first = runtime::first_fitting(config, options.ranks, threads, 0, fit.budget, true);
  if (!fit.fits) {
    fit.advice = runtime::advise_memory(config, options.ranks, threads, 0, fit.budget, true);
  }
  return fit;
}

std::string fit_text(const Fit& fit) {
  if (fit.budget == 0) return "";
  const double mebibytes = static_cast<double>(fit.budget) / 1048576.0;
  if (fit.fits) return fmt::format("\nfits in {:.1f} MiB\n", mebibytes);
  return fmt::format("\ndoes not fit in {:.1f} MiB; {}\n", mebibytes,
                     fit.advice.empty()
                         ? "no batch.micro, no memory.recompute, no parallel.zero_stage and no "
                           "number of ranks does"
                         : "what would: " + runtime::to_text(fit.advice)) +
         (fit.first
              ? fmt::format("first setting that fits: {} ({:.1f} MiB)\n", fit.first->to_text(),
                            static_cast<double>(fit.first->bytes) / 1048576.0)
              : "");
}

void add_fit(const Fit& fit, nlohmann::ordered_json& json) {
  if (fit.budget == 0) return;
  json["budget_bytes"] = fit.budget;
  json["fits"] = fit.fits;
  json["advice"] = nlohmann::ordered_json::array();
  for (const runtime::MemoryAdvice& advice : fit.advice)
    json["advice"].push_back({{"change", advice.change}, {"bytes_per_rank", advice.bytes}});
  json["first_fit"] = nullptr;
  if (!fit.first) return;
  json["first_fit"] = {{"batch.micro", fit.first->micro},
                       {"memory.recompute", runtime::name_of(fit.first->recompute)},
                       {"parallel.zero_stage", fit.first->zero_stage},
                       {"parallel.grad_sync", name_of(fit.first->grad_sync)},
                       {"ranks", fit.first->ranks},
                       {"bytes_per_rank", fit.first->bytes}};
}

void add_muon(const runtime::MuonCost& cost, nlohmann::ordered_json& json) {
  json["newton_schulz"] = {{"matrices", cost.matrices},
                           {"flop_per_step", cost.flop},
                           {"model_flop_per_step", cost.model_flop},
                           {"imbalance", cost.imbalance},
                           {"added_share", cost.share()}};
}

void add_mup(const runtime::Config& config, nlohmann::ordered_json& json) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const runtime::MupRow& row : runtime::mup_rows(config)) {
    rows.push_back({{"tensors", row.tensors},
                    {"width_multiplier", row.width_multiplier},
                    {"initial_deviation", row.initial_deviation},
                    {"learning_rate", row.learning_rate},
                    {"weight_decay", row.weight_decay}});
  }
  json["mup"] = {{"rows", rows},
                 {"score_scale", models::attention_scale(config.model)},
                 {"logit_scale", 1.0 / config.model.width_multiplier()}};
}

int plan_cluster(const PlanOptions& options, const runtime::Config& config, std::ostream& out) {
  const runtime::ClusterSpec cluster = load_cluster(options.cluster);
  print_cluster(predict_cluster(config, cluster, options.scaling, options.ranks), cluster,
                options.format, out);
  return 0;
}

int plan(const PlanOptions& options, std::ostream& out) {
  const runtime::Config config = runtime::load_config(options.file, options.overrides);
  if (!options.cluster.empty()) return plan_cluster(options, config, out);
  runtime::validate_for_world(config, options.ranks);
  const int threads = threads_of_rank(config, options.ranks);
  const std::vector<runtime::MemoryPlan> plans = all_plans(config, options.ranks, threads);
  const bool mup = config.model.parametrization == models::Parametrization::kMup;
  const auto muon = runtime::muon_cost_of(config, runtime::parameter_table(config), options.ranks);
  const Fit fit = fit_of(options, config, plans[0].scarce_bytes(), threads);
  if (options.format == OutputFormat::kJson) {
    nlohmann::ordered_json json = to_json(plans[0]);
    add_fit(fit, json);
    if (muon) add_muon(*muon, json);
    if (mup) add_mup(config, json);
    for (std::size_t i = 1; i < plans.size(); ++i)
      json["alternatives"].push_back(to_json(plans[i]));
    out << json.dump() << "\n";
    return 0;
  }
  out << fmt::format("{}, ZeRO stage {}, grad_sync {}, recompute {}\n",
                     core::counted(options.ranks, "rank"), plans[0].zero_stage,
                     name_of(plans[0].grad_sync), runtime::name_of(config.memory.recompute));
  for (const std::string& line : runtime::describe_groups(config))
    out << "group " << line << "\n";
  out << "\n";
  out << runtime::to_table(plans[0], nullptr) << fit_text(fit);
  if (mup) out << "\n" << runtime::mup_table(config);
  if (muon) out << "\n" << runtime::describe(*muon) << "\n";
  print_comparison(plans, out);
  return 0;
}

}  // namespace

void add_plan_command(CLI::App& app, CommandContext& context) {
  CLI::App* command =
      app.add_subcommand("plan", "predict the memory of a rank and the bytes that it sends");
  auto options = std::make_shared<PlanOptions>();
  command->add_option("config", options->file, "YAML or JSON file")
      ->required()
      ->option_text("CONFIG");
  add_set_option(*command, options->overrides);
  command->add_option("--ranks", options->ranks, "number of ranks")
      ->check(CLI::Range(1, 1 << 20).description(""))
      ->option_text("N")
      ->capture_default_str();
  command
      ->add_option("--device-memory", options->device_memory,
                   "what one rank may take, as 80GiB or 512MiB: says whether it fits, and which "
                   "changes would (default: memory.limit_mib)")
      ->transform(CLI::AsSizeValue(false).description(""))
      ->option_text("SIZE");
  CLI::Option* cluster =
      command
          ->add_option(
              "--cluster", options->cluster,
              "predict step time and memory on 1, 2, 4, ... ranks of the cluster that this "
              "file describes (configs/clusters)")
          ->option_text("FILE");
  const std::map<std::string, Scaling> scalings = {{"strong", Scaling::kStrong},
                                                   {"weak", Scaling::kWeak}};
  command
      ->add_option("--scaling", options->scaling,
                   "with --cluster: strong keeps batch.global, weak lets it grow with the ranks")
      ->transform(CLI::CheckedTransformer(scalings).description(""))
      ->option_text("strong|weak")
      ->needs(cluster);
  add_output_option(*command, options->format);
  set_action(*command, context, [options, &context] { return plan(*options, context.out); });
}

}  // namespace lockstep::launcher
