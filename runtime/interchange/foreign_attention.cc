#include "runtime/interchange/foreign_attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace lockstep::runtime {

namespace {

using models::RopeScaling;
using models::RopeScalingKind;
using nlohmann::json;

constexpr std::int64_t kMostLayers = 1 << 20;  // as model.layers

// One of the two fields that may hold the description, with its name.
struct RopeField {
  std::string name;
  json value;
};

RopeField rope_field(const FieldReader& reader) {
  const json scaling = reader.value("rope_scaling");
  if (!scaling.is_null() && !scaling.empty()) return {"rope_scaling", scaling};
  return {"rope_parameters", reader.value("rope_parameters")};
}

std::string rope_type(const json& description) {
  for (const char* name : {"rope_type", "type"}) {
    if (const auto found = description.find(name); found != description.end())
      return found->is_string() ? found->get<std::string>() : json_excerpt(*found);
  }
  return "default";
}

// Members that a description of this type may have.
std::set<std::string> legal_members(const std::string& type) {
  std::set<std::string> members = {"rope_type", "type", "rope_theta"};
  if (type == "linear" || type == "llama3") members.insert("factor");
  if (type == "llama3")
    members.insert({"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"});
  return members;
}

class RopeReader {
 public:
  RopeReader(FieldReader& reader, RopeField field)
      : reader_(reader), field_(std::move(field)), type_(rope_type(field_.value)) {}

  RopeScaling read() {
    RopeScaling scaling;
    if (type_ != "default" && type_ != "linear" && type_ != "llama3") {
      reader_.reject(field_.name, "rope_type default, linear or llama3, not " + type_);
      return scaling;
    }
    const std::set<std::string> legal = legal_members(type_);
    for (const auto& [name, value] : field_.value.items()) {
      if (!legal.contains(name))
        reader_.reject(field_.name, fmt::format("no member {} beside rope_type {}", name, type_));
    }
    if (type_ == "default") return scaling;
    scaling.kind = type_ == "linear" ? RopeScalingKind::kLinear : RopeScalingKind::kLlama3;
    scaling.factor = member("factor");
    if (scaling.kind == RopeScalingKind::kLinear) return scaling;
    scaling.low_freq_factor = member("low_freq_factor");
    scaling.high_freq_factor = member("high_freq_factor");
    const char* original = "original_max_position_embeddings";
    const json positions = field_.value.contains(original)
                               ? field_.value[original]
                               : reader_.value("max_position_embeddings");
    scaling.original_context = reader_.whole(field_.name, positions, 1);
    return scaling;
  }

 private:
  double member(const char* name) {
    const auto found = field_.value.find(name);
    if (found != field_.value.end() && found->is_number()) return found->get<double>();
    reader_.reject(field_.name, fmt::format("a number {} for rope_type {}", name, type_));
    return 1.0;
  }

  FieldReader& reader_;
  RopeField field_;
  std::string type_;
};

// null: no window.
std::int64_t read_window(FieldReader& reader) {
  const json value = reader.value("sliding_window");
  return value.is_null() ? 0 : reader.whole("sliding_window", value, 0);
}

// The shortest list that gives all of `windows` when repeated; empty if there is no window.
std::vector<std::int64_t> shortest_pattern(const std::vector<std::int64_t>& windows) {
  if (std::all_of(windows.begin(), windows.end(), [](std::int64_t w) { return w == 0; })) return {};
  for (std::size_t n = 1; n < windows.size(); ++n) {
    bool repeats = true;
    for (std::size_t i = n; repeats && i < windows.size(); ++i)
      repeats = windows[i] == windows[i - n];
    if (repeats) return {windows.begin(), windows.begin() + static_cast<std::ptrdiff_t>(n)};
  }
  return windows;
}

}  // namespace

void read_rope(FieldReader& reader, const ForeignField&) {
  const RopeField field = rope_field(reader);
  if (!field.value.is_null() && !field.value.is_object())
    return reader.reject(field.name, "an object or null");
  json theta = reader.value("rope_theta");
  if (field.value.is_object() && field.value.contains("rope_theta"))
    theta = field.value["rope_theta"];
  reader.model().rope_theta =
      theta.is_null() ? 10000.0 : reader.number("rope_theta", theta, 10000.0);
  if (field.value.is_object()) reader.model().rope_scaling = RopeReader(reader, field).read();
}

void read_window_of_all_layers(FieldReader& reader, const ForeignField&) {
  const std::int64_t window = read_window(reader);
  if (window > 0) reader.model().attention_window = {window};
}

void read_window_by_layer(FieldReader& reader, const ForeignField& field) {
  const json value = reader.value("use_sliding_window");
  const bool used = reader.flag("use_sliding_window", value, false);
  const std::int64_t window = used ? read_window(reader) : 0;
  const json count = reader.value("num_hidden_layers");
  if (!count.is_number_integer() || count < 1 || count > kMostLayers) return;  // reported elsewhere
  const auto layers = count.get<std::size_t>();
  std::vector<std::int64_t> windows;
  const json types = reader.value(field.name);
  if (types.is_null()) {
    const json first = reader.value("max_window_layers");
    if (!first.is_number_integer()) return reader.reject("max_window_layers", "a whole number");
    if (window == 0) return;
    for (std::size_t i = 0; i < layers; ++i)
      windows.push_back(static_cast<std::int64_t>(i) >= first.get<std::int64_t>() ? window : 0);
  } else {
    if (!types.is_array() || types.size() != layers)
      return reader.reject(field.name, fmt::format("a list of {} types, one a layer", layers));
    for (const json& type : types) {
      const bool slides = type == "sliding_attention";
      if ((!slides && type != "full_attention") || (slides && window == 0))
        return reader.reject(field.name,
                             "full_attention or, with use_sliding_window, sliding_attention");
      windows.push_back(slides ? window : 0);
    }
  }
  reader.model().attention_window = shortest_pattern(windows);
}

}  // namespace lockstep::runtime
