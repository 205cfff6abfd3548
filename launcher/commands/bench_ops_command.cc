#include "launcher/commands/bench_ops_command.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "core/error.h"
#include "core/processors.h"
#include "launcher/bench/bench_device.h"
#include "launcher/bench/ops_bench.h"

namespace lockstep::launcher {
namespace {

using ops::Determinism;

struct BenchOpsOptions {
  std::string device = "cpu";
  std::string dtype;  // empty: the usual one of the device
  std::string shapes = "gpt2-124m";
  std::int64_t tokens = 0;      // 0: of one sequence on CPUs, of 16 on a GPU
  int threads = 0;              // 0: the cores this process may use
  std::int64_t memory_mib = 0;  // 0: by device
  std::int64_t rotate_mib = 256;
  int repetitions = 10;
  double seconds = 2.0;
  std::string filter;
  std::string reproducible = "run";
  OutputFormat format = OutputFormat::kJson;

  bool on_cuda() const { return device == "cuda"; }
};

core::DType dtype_of(const BenchOpsOptions& options) {
  if (options.dtype == "fp32") return core::DType::kF32;
  if (options.dtype == "bf16") return core::DType::kBF16;
  if (options.dtype == "fp16") return core::DType::kF16;
  return options.on_cuda() ? core::DType::kBF16 : core::DType::kF32;
}

OpShapes shapes_of(const BenchOpsOptions& options) {
  OpShapes shapes;
  shapes.name = options.shapes;
  shapes.model = model_named(options.shapes);
  shapes.dtype = dtype_of(options);
  shapes.sequences = options.on_cuda() ? 16 : 1;
  if (options.tokens == 0) return shapes;
  if (options.tokens < shapes.model.context) {
    shapes.model.context = options.tokens;  // one shorter sequence
    shapes.sequences = 1;
  } else if (options.tokens % shapes.model.context == 0) {
    shapes.sequences = options.tokens / shapes.model.context;
  } else {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("--tokens {}: sequences of {} have {} tokens; give a multiple of that, or less",
                    options.tokens, options.shapes, shapes.model.context));
  }
  return shapes;
}

BenchDevice open_device(const BenchOpsOptions& options, std::size_t memory_bytes) {
  const int threads = options.threads > 0 ? options.threads : core::usable_cores();
  if (!options.on_cuda()) return BenchDevice::cpu(threads, memory_bytes);
  return BenchDevice::cuda(threads, memory_bytes,
                           options.reproducible == "none" ? Determinism::kNone : Determinism::kRun);
}

// Prints what is measured, and adds up what a micro-batch and an update would take.
class OpsPrinter {
 public:
  OpsPrinter(const BenchOpsOptions& options, const OpShapes& shapes, BenchDevice& device,
             std::ostream& out)
      : options_(options), out_(out) {
    const core::DeviceRef ref = device.context().device_ref();
    common_ = {{"bench", "ops"},
               {"device", core::to_string(device.context().device())},
               {"device_name", name_of_device(ref)},
               {"threads", device.context().threads()},
               {"reproducible", options.reproducible},
               {"shapes", shapes.name},
               {"tokens", shapes.tokens()},
               {"dtype", core::name_of(shapes.dtype)}};
  }

  void ceilings(const Ceilings& c) {
    if (options_.format == OutputFormat::kTable) {
      out_ << fmt::format(
          "{}, {}, {} tokens, {}; copies of {} MiB read and write {:.1f} GB/s, "
          "products of {} x {} do {:.2f} TFLOP/s\n",
          common_["device_name"].get<std::string>(), options_.shapes,
          common_["tokens"].get<std::int64_t>(), common_["dtype"].get<std::string>(),
          c.copy_bytes >> 20, c.copy_bytes_per_second / 1e9, c.matrix_size, c.matrix_size,
          c.matrix_flop_per_second / 1e12);
      out_ << fmt::format("{:<26}{:<34}{:>28}{:>8}{:>12}{:>10}{:>10}  {:<7}{:>6}\n", "operation",
                          "part", "shape", "calls", "ms", "GB/s", "TFLOP/s", "bound", "of it");
      return;
    }
    nlohmann::ordered_json json = common_;
    json["op"] = "ceilings";
    json["copy_bytes"] = c.copy_bytes;
    json["copy_gb_per_s"] = c.copy_bytes_per_second / 1e9;
    json["matrix_size"] = c.matrix_size;
    json["matrix_tflop_per_s"] = c.matrix_flop_per_second / 1e12;
    out_ << json.dump() << std::endl;
  }

  void operator()(const OpMeasurement& m) {
    if (m.skipped.empty()) {
      seconds_ += m.calls * m.time.seconds;
      floor_seconds_ += m.calls * m.floor_seconds;
      ++measured_;
    } else {
      ++skipped_;
    }
    if (options_.format == OutputFormat::kTable) {
      print_row(m);
    } else {
      print_line(m);
    }
  }

  // Of all ops only: a filter would make it a sum of something else.
  void total() {
    if (!options_.filter.empty()) return;
    if (options_.format == OutputFormat::kTable) {
      out_ << fmt::format("calls x ms: {:.3f} ms, of which the ceilings need {:.3f}{}\n",
                          seconds_ * 1e3, floor_seconds_ * 1e3,
                          skipped_ > 0 ? fmt::format("; {} skipped", skipped_) : "");
      return;
    }
    nlohmann::ordered_json json = common_;
    json["op"] = "total";
    json["part"] = "one micro-batch and one update";
    json["seconds"] = seconds_;
    json["floor_seconds"] = floor_seconds_;
    json["measured"] = measured_;
    json["skipped"] = skipped_;
    out_ << json.dump() << std::endl;
  }

 private:
  void print_row(const OpMeasurement& m) {
    const std::string names =
        fmt::format("{:<26}{:<34}{:>28}{:>8.4g}", m.op, m.part, m.shape, m.calls);
    if (!m.skipped.empty()) {
      out_ << names << "  skipped: " << m.skipped << std::endl;
      return;
    }
    out_ << fmt::format("{}{:>12.4f}{:>10.1f}{:>10}  {:<7}{:>5.0f}%", names, m.time.seconds * 1e3,
                        m.bytes_per_second() / 1e9,
                        m.operations > 0.0 ? fmt::format("{:.2f}", m.flop_per_second() / 1e12) : "",
                        m.bound_by_matrix ? "matrix" : "copy", m.fraction() * 100.0)
         << std::endl;
  }

  void print_line(const OpMeasurement& m) {
    nlohmann::ordered_json json = common_;
    json["op"] = m.op;
    json["part"] = m.part;
    json["shape"] = m.shape;
    json["calls"] = m.calls;
    if (!m.skipped.empty()) {
      json["skipped"] = m.skipped;
      out_ << json.dump() << std::endl;
      return;
    }
    json["seconds"] = m.time.seconds;
    json["fastest_seconds"] = m.time.fastest_seconds;
    json["slowest_seconds"] = m.time.slowest_seconds;
    json["repetitions"] = m.time.repetitions;
    json["operand_sets"] = m.operand_sets;
    json["bytes"] = m.bytes;
    json["operations"] = m.operations;
    json["gb_per_s"] = m.bytes_per_second() / 1e9;
    json["tflop_per_s"] = m.flop_per_second() / 1e12;
    json["bound"] = m.bound_by_matrix ? "matrix" : "copy";
    json["fraction"] = m.fraction();
    out_ << json.dump() << std::endl;
  }

  const BenchOpsOptions& options_;
  std::ostream& out_;
  nlohmann::ordered_json common_;
  double seconds_ = 0.0;
  double floor_seconds_ = 0.0;
  int measured_ = 0;
  int skipped_ = 0;
};

int bench_ops(const BenchOpsOptions& options, std::ostream& out) {
  const OpShapes shapes = shapes_of(options);
  const std::vector<OpCase> cases = filtered_cases(shapes, options.filter);
  OpsBenchOptions bench;
  bench.limits.repetitions = options.repetitions;
  bench.limits.most_seconds = options.seconds;
  bench.rotate_bytes = static_cast<std::size_t>(options.rotate_mib) << 20;
  const std::int64_t usual_mib = options.on_cuda() ? 16 << 10 : 2 << 10;
  bench.memory_bytes =
      static_cast<std::size_t>(options.memory_mib > 0 ? options.memory_mib : usual_mib) << 20;
  BenchDevice device = open_device(options, bench.memory_bytes);
  OpsPrinter printer(options, shapes, device, out);
  const Ceilings ceilings = measure_ceilings(device.context(), device.memory(), bench.memory_bytes,
                                             shapes.dtype, bench.limits);
  printer.ceilings(ceilings);
  measure_ops(device.context(), device.memory(), cases, ceilings, bench, std::ref(printer));
  printer.total();
  return 0;
}

void add_measuring_options(CLI::App& command, BenchOpsOptions& options) {
  command.add_option("--threads", options.threads, "threads (default: the cores it may use)")
      ->check(CLI::Range(1, 4096).description(""))
      ->option_text("N");
  command
      .add_option("--memory-mib", options.memory_mib,
                  "most memory to use (default 2048, on cuda 16384); an operation that needs more "
                  "is skipped")
      ->check(CLI::Range(std::int64_t{64}, std::int64_t{1} << 24).description(""))
      ->option_text("N");
  command
      .add_option("--rotate-mib", options.rotate_mib,
                  "operands that calls go through in turn, more than caches hold")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 20).description(""))
      ->option_text("N")
      ->capture_default_str();
  command.add_option("--repetitions", options.repetitions, "timed repetitions; the median counts")
      ->check(CLI::Range(1, 1000).description(""))
      ->option_text("N")
      ->capture_default_str();
  command
      .add_option("--seconds", options.seconds,
                  "time for the repetitions of one operation; then fewer, but 3, are made")
      ->check(CLI::Range(0.001, 3600.0).description(""))
      ->option_text("S")
      ->capture_default_str();
}

}  // namespace

void add_bench_ops_command(CLI::App& bench, CommandContext& context) {
  CLI::App* command = bench.add_subcommand(
      "ops", "time of each operation of a model, beside copies and a large product here");
  auto options = std::make_shared<BenchOpsOptions>();
  command->add_option("--device", options->device, "cpu, or the first GPU that is visible")
      ->check(CLI::IsMember({"cpu", "cuda"}).description(""))
      ->option_text("cpu|cuda")
      ->capture_default_str();
  command->add_option("--dtype", options->dtype, "default fp32, on cuda bf16")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}).description(""))
      ->option_text("fp32|bf16|fp16");
  command->add_option("--shapes", options->shapes, "the model whose shapes are measured")
      ->check(CLI::IsMember(model_names()).description(""))
      ->option_text(fmt::format("{}", fmt::join(model_names(), "|")))
      ->capture_default_str();
  command
      ->add_option("--tokens", options->tokens,
                   "tokens of a micro-batch (default: one sequence, on cuda 16)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24).description(""))
      ->option_text("N");
  command
      ->add_option("--filter", options->filter,
                   "only operations with this in their name (\"matmul head\")")
      ->option_text("TEXT");
  command
      ->add_option("--reproducible", options->reproducible,
                   "run: what run.reproducible: run may use; none: the fastest there is; on CPUs "
                   "they are the same")
      ->check(CLI::IsMember({"none", "run"}).description(""))
      ->option_text("none|run")
      ->capture_default_str();
  add_measuring_options(*command, *options);
  add_output_option(*command, options->format);
  set_action(*command, context, [options, &context] { return bench_ops(*options, context.out); });
}

}  // namespace lockstep::launcher
