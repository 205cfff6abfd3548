#include "coordinator/attempts/control_channel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace lockstep::coordinator {

namespace {

constexpr std::size_t kMostDescriptors = 4;

// Paths of sockets are short (108 bytes) and those of attempts are not: the folder is named through
// a descriptor.
sockaddr_un address_in(const Descriptor& folder) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}/control", folder.get());
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

Descriptor open_folder(const std::string& directory) {
  return Descriptor(open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
}

Descriptor new_socket() {
  return Descriptor(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

}  // namespace

ControlListener::ControlListener(const std::string& directory) : socket_(new_socket()) {
  const Descriptor folder = open_folder(directory);
  unlinkat(folder.get(), "control", 0);
  const sockaddr_un address = address_in(folder);
  constexpr int kWaiting = 1024;  // more than the ranks of one machine
  if (!socket_ ||
      bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) ||
      listen(socket_.get(), kWaiting) != 0) {
    throw core::Error(core::ErrorKind::kInternal, fmt::format("cannot listen at {}/control: {}",
                                                              directory, std::strerror(errno)));
  }
}

Descriptor ControlListener::accept() {
  return Descriptor(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

std::optional<ControlMessage> receive_control(const Descriptor& connection) {
  ControlMessage message;
  message.text.resize(kLongestControlMessage);
  const ssize_t n = recv(connection.get(), message.text.data(), message.text.size(), 0);
  if (n <= 0) return std::nullopt;
  message.text.resize(static_cast<std::size_t>(n));
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return std::nullopt;
  message.pid = peer.pid;
  message.own_user = peer.uid == geteuid();
  return message;
}

void answer_control(const Descriptor& connection, const std::string& text,
                    const std::vector<int>& descriptors) {
  alignas(cmsghdr) char space[CMSG_SPACE(kMostDescriptors * sizeof(int))] = {};
  iovec part{const_cast<char*>(text.data()), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    const std::size_t bytes = descriptors.size() * sizeof(int);
    message.msg_control = space;
    message.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(bytes);
    std::memcpy(CMSG_DATA(header), descriptors.data(), bytes);
  }
  // Whoever asked and has gone misses nothing.
  sendmsg(connection.get(), &message, MSG_NOSIGNAL);
}

namespace {

bool connect_to(const Descriptor& connection, const std::string& directory) {
  const Descriptor folder = open_folder(directory);
  if (!folder || !connection) return false;
  const sockaddr_un address = address_in(folder);
  return connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) ==
         0;
}

ControlReply receive_reply(const Descriptor& connection) {
  ControlReply reply;
  reply.text.resize(kLongestControlMessage);
  alignas(cmsghdr) char space[CMSG_SPACE(kMostDescriptors * sizeof(int))] = {};
  iovec part{reply.text.data(), reply.text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = sizeof(space);
  const ssize_t n = recvmsg(connection.get(), &message, MSG_CMSG_CLOEXEC);
  reply.text.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); n >= 0 && header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    std::vector<int> fds((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(fds.data(), CMSG_DATA(header), fds.size() * sizeof(int));
    for (const int fd : fds)
      reply.descriptors.emplace_back(fd);
  }
  return reply;
}

}  // namespace

std::optional<ControlReply> call_control(const std::string& directory, const std::string& text,
                                         int timeout_ms) {
  const Descriptor connection = new_socket();
  if (!connect_to(connection, directory)) return std::nullopt;
  if (send(connection.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return std::nullopt;
  pollfd entry{connection.get(), POLLIN, 0};
  if (poll(&entry, 1, timeout_ms) <= 0) return std::nullopt;
  ControlReply reply = receive_reply(connection);
  if (reply.text.empty()) return std::nullopt;
  return reply;
}

}  // namespace lockstep::coordinator
