#pragma once

#include <google/protobuf/message.h>
#include <cstdint>
#include <iosfwd>
#include <string>

#include "lockstep/v1/run_service.pb.h"

// What the commands tell to programs: proto JSON with every field, as one document, as a line each,
// or as YAML.
namespace lockstep::coordinator {

enum class DocumentForm : std::uint8_t { kJson, kJsonLines, kYaml };

// One thing: an object.
std::string to_document(DocumentForm form, const google::protobuf::Message& message);

// Lines of a log, with "text" (bytes that are not UTF-8 are replaced) instead of encoded bytes.
std::string log_json(const v1::LogChunk& chunk);

// YAML in blocks of what JSON says; every text in quotes, so that none is taken for a number.
std::string to_yaml(const std::string& json);

// Several things, told one after the other: an array, or a line each, or a list. An empty array too
// is said, at the end.
class DocumentList {
 public:
  DocumentList(std::ostream& out, DocumentForm form) : out_(out), form_(form) {}
  ~DocumentList();
  DocumentList(const DocumentList&) = delete;
  DocumentList& operator=(const DocumentList&) = delete;

  void add(const google::protobuf::Message& message);
  void add_json(const std::string& json);  // one line

 private:
  std::ostream& out_;
  const DocumentForm form_;
  bool empty_ = true;
};

}  // namespace lockstep::coordinator
