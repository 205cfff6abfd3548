#include "coordinator/client/documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include <nlohmann/json.hpp>

#include "coordinator/client/text.h"

namespace lockstep::coordinator {
namespace {

using json = nlohmann::ordered_json;

std::string scalar(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string key_text(const std::string& key) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  // "y", "no" and their like mean something else in YAML.
  return key.size() > 3 && std::all_of(key.begin(), key.end(), plain) && key != "true" &&
                 key != "false" && key != "null"
             ? key
             : scalar(key);
}

// A list of values, each on lines of its own behind `indent`; the first continues a line.
void write_block(const json& value, std::size_t indent, std::string& text) {
  const std::string margin(indent, ' ');
  bool first = true;
  const auto write_child = [&](const json& child) {
    if (child.is_structured() && !child.empty()) {
      text += "\n" + std::string(indent + 2, ' ');
      write_block(child, indent + 2, text);
    } else {
      text += " " + scalar(child) + "\n";
    }
  };
  if (value.is_object()) {
    for (const auto& [key, child] : value.items()) {
      text += (first ? "" : margin) + key_text(key) + ":";
      write_child(child);
      first = false;
    }
    return;
  }
  for (const json& child : value) {
    text += (first ? "" : margin) + "-";
    first = false;
    if (child.is_structured() && !child.empty()) {
      text += " ";
      write_block(child, indent + 2, text);
    } else {
      text += " " + scalar(child) + "\n";
    }
  }
}

}  // namespace

std::string to_yaml(const std::string& text) {
  const json value = json::parse(text);
  std::string yaml;
  if (!value.is_structured() || value.empty()) return scalar(value) + "\n";
  write_block(value, 0, yaml);
  return yaml;
}

std::string log_json(const v1::LogChunk& chunk) {
  json value = json::parse(to_json(chunk));
  value.erase("data");
  value["text"] = chunk.data();
  return scalar(value);
}

std::string to_document(DocumentForm form, const google::protobuf::Message& message) {
  const std::string text = to_json(message);
  return form == DocumentForm::kYaml ? to_yaml(text) : text + "\n";
}

void DocumentList::add(const google::protobuf::Message& message) {
  add_json(to_json(message));
}

void DocumentList::add_json(const std::string& text) {
  switch (form_) {
    case DocumentForm::kJson:
      out_ << (empty_ ? "[\n" : ",\n") << text;
      break;
    case DocumentForm::kJsonLines:
      out_ << text << "\n";
      break;
    case DocumentForm::kYaml:
      out_ << to_yaml("[" + text + "]");
      break;
  }
  out_.flush();
  empty_ = false;
}

DocumentList::~DocumentList() {
  if (form_ == DocumentForm::kJson) out_ << (empty_ ? "[]\n" : "\n]\n");
  if (form_ == DocumentForm::kYaml && empty_) out_ << "[]\n";
  out_.flush();
}

}  // namespace lockstep::coordinator
