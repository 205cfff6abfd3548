#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "coordinator/attempts/descriptor.h"

// The Unix socket DIRECTORY/control of a supervisor: one JSON message there, one back, then the
// connection ends. Who speaks is known from the kernel, not from the message.
namespace lockstep::coordinator {

inline constexpr std::size_t kLongestControlMessage = 64 << 10;

struct ControlMessage {
  std::string text;
  pid_t pid = 0;  // of who connected
  bool own_user = false;
};

// The supervisor's end.
class ControlListener {
 public:
  // Takes the place of a socket that an earlier one left. Throws Error(kInternal).
  explicit ControlListener(const std::string& directory);

  int fd() const { return socket_.get(); }
  // A connection that waits; empty: none.
  Descriptor accept();

 private:
  Descriptor socket_;
};

// Reads the message of a connection that has one; nothing: it was closed, or said nothing.
std::optional<ControlMessage> receive_control(const Descriptor& connection);
// Answers, with descriptors (copies go over; at most 4).
void answer_control(const Descriptor& connection, const std::string& text,
                    const std::vector<int>& descriptors = {});

struct ControlReply {
  std::string text;
  std::vector<Descriptor> descriptors;
};
// The other end: sends one message and waits for the answer, this long at most. Nothing: nobody
// listens, or no answer came.
std::optional<ControlReply> call_control(const std::string& directory, const std::string& text,
                                         int timeout_ms);

}  // namespace lockstep::coordinator
