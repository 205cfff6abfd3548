#include "runtime/metrics/tensorboard_log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "lockstep/tensorboard/event.pb.h"
#include "runtime/metrics/record_file.h"

namespace lockstep::runtime {

namespace {

namespace fs = std::filesystem;
namespace tb = lockstep::tensorboard;

constexpr const char* kPrefix = "events.out.tfevents.";

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

tb::Event event_of(std::int64_t step) {
  tb::Event event;
  event.set_wall_time(now());
  event.set_step(step);
  return event;
}

void write(AppendFile& file, const tb::Event& event) {
  file.write(framed_record(event.SerializeAsString()));
}

void add_scalar(tb::Event& event, const std::string& tag, double value) {
  if (!std::isfinite(value)) return;
  tb::Summary::Value& entry = *event.mutable_summary()->add_value();
  entry.set_tag(tag);
  entry.set_simple_value(static_cast<float>(value));
}

tb::Summary::Value& add_tensor(tb::Event& event, const std::string& tag, const char* plugin,
                               tb::TensorProto::Type type) {
  tb::Summary::Value& entry = *event.mutable_summary()->add_value();
  entry.set_tag(tag);
  entry.mutable_metadata()->mutable_plugin_data()->set_plugin_name(plugin);
  entry.mutable_metadata()->set_data_class(tb::SummaryMetadata::TENSOR);
  entry.mutable_tensor()->set_dtype(type);
  return entry;
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "host";
  return name.data();
}

// Events of this step and later are no longer of the run.
void cut_file(const fs::path& path, std::int64_t first_step) {
  int kept = 0;
  const std::uint64_t end = visit_records(path.string(), [&](std::string_view data, std::uint64_t) {
    tb::Event event;
    if (!event.ParseFromArray(data.data(), static_cast<int>(data.size()))) return false;
    const bool head = event.has_file_version() || event.has_session_log();
    if (!head && event.step() >= first_step) return false;
    kept += head ? 0 : 1;
    return true;
  });
  std::error_code failure;
  if (kept == 0) {
    fs::remove(path, failure);
  } else if (fs::file_size(path, failure) != end && !failure) {
    fs::resize_file(path, end, failure);
  }
  if (failure) {
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{}: cannot cut: {}", path.string(), failure.message()));
  }
}

// Bins ascending, as rows of left edge, right edge and count.
void fill_histogram(const GradientHistogram& h, double unit, tb::TensorProto& tensor) {
  const auto row = [&](double left, double right, std::int64_t count) {
    tensor.add_double_val(left);
    tensor.add_double_val(right);
    tensor.add_double_val(static_cast<double>(count));
  };
  const auto edge = [&](std::size_t i) {
    return std::ldexp(unit, h.first_exponent + static_cast<int>(i));
  };
  const std::size_t bins = h.positive.size();
  for (std::size_t i = bins; i-- > 0;)
    row(-edge(i + 1), -edge(i), h.negative[i]);
  row(-edge(0), edge(0), h.zeros);
  for (std::size_t i = 0; i < bins; ++i)
    row(edge(i), edge(i + 1), h.positive[i]);
  tensor.mutable_tensor_shape()->add_dim()->set_size(static_cast<std::int64_t>(2 * bins + 1));
  tensor.mutable_tensor_shape()->add_dim()->set_size(3);
}

}  // namespace

void TensorBoardLog::open(std::int64_t first_step, const std::string& config) {
  std::error_code failure;
  fs::create_directories(directory_, failure);
  std::vector<fs::path> older;
  for (const auto& entry : fs::directory_iterator(directory_, failure)) {
    if (entry.path().filename().string().starts_with(kPrefix)) older.push_back(entry.path());
  }
  if (failure) {
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{}: cannot open: {}", directory_, failure.message()));
  }
  for (const fs::path& path : older)
    cut_file(path, first_step);
  // Read in the order of their names.
  const auto seconds = static_cast<std::int64_t>(now());
  std::string path;
  do {
    path = fmt::format("{}/{}{:010d}.{}.{}.{}", directory_, kPrefix, seconds, host_name(), getpid(),
                       opened_++);
  } while (fs::exists(path));
  file_.open(path, 0);
  tb::Event version = event_of(0);
  version.set_file_version("brain.Event:2");
  write(file_, version);
  tb::Event start = event_of(first_step);
  start.mutable_session_log()->set_status(tb::SessionLog::START);
  write(file_, start);
  tb::Event text = event_of(first_step);
  tb::TensorProto& tensor =
      *add_tensor(text, "config/text_summary", "text", tb::TensorProto::STRING).mutable_tensor();
  tensor.add_string_val("```yaml\n" + config + "```\n");
  tensor.mutable_tensor_shape()->add_dim()->set_size(1);
  write(file_, text);
}

void TensorBoardLog::step(const StepMetrics& m) {
  tb::Event event = event_of(m.step);
  add_scalar(event, "train/loss", m.loss);
  add_scalar(event, "train/grad_norm", m.grad_norm);
  if (m.clip_coefficient) add_scalar(event, "train/clip_coefficient", *m.clip_coefficient);
  add_scalar(event, "train/learning_rate", m.learning_rate);
  add_scalar(event, "train/loss_scale", m.loss_scale);
  if (m.step_seconds > 0.0) {
    add_scalar(event, "throughput/tokens_per_second",
               static_cast<double>(m.tokens) / m.step_seconds);
  }
  add_scalar(event, "throughput/step_seconds", m.step_seconds);
  write(file_, event);
}

void TensorBoardLog::validation(std::int64_t step, double loss, std::optional<double> ema_loss) {
  tb::Event event = event_of(step);
  add_scalar(event, "validation/loss", loss);
  if (ema_loss) add_scalar(event, "validation/ema_loss", *ema_loss);
  write(file_, event);
}

void TensorBoardLog::layers(const LayerReport& report) {
  tb::Event event = event_of(report.step);
  for (const Measured& m : report.layers) {
    const auto add = [&](const char* name, double value) {
      add_scalar(event, fmt::format("layers/{}/{}", m.name, name), value);
    };
    add("grad_norm", m.grad_norm);
    add("grad_max", m.grad_max);
    add("weight_norm", m.weight_norm);
    add("update_ratio", m.update_ratio);
    add("zero_share", m.zero_share);
    add("fp16_underflow_share", m.fp16_underflow_share);
    add("activation_rms", m.activation_rms);
    add("activation_max", m.activation_max);
    add("attention_logit_max", m.attention_logit_max);
    add("attention_entropy", m.attention_entropy);
    add("dead_share", m.dead_share);
  }
  write(file_, event);
}

void TensorBoardLog::histograms(const LayerReport& report) {
  tb::Event event = event_of(report.step);
  for (std::size_t i = 0; i < report.tensors.size(); ++i) {
    const std::string tag = "histograms/" + report.tensors[i].name;
    tb::Summary::Value& entry = add_tensor(event, tag, "histograms", tb::TensorProto::DOUBLE);
    fill_histogram(report.histograms[i], report.unit, *entry.mutable_tensor());
  }
  write(file_, event);
}

}  // namespace lockstep::runtime
