#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "coordinator/server/rate_limiter.h"

namespace lockstep::coordinator {

// What a caller must hold to use a method. Scopes of tokens: admin includes operate and submit, and
// each of those includes read.
enum class Access : std::uint8_t {
  kPublic,   // anybody who can connect
  kRead,     // scope read
  kSubmit,   // scope submit
  kOwn,      // scope operate; or submit, for runs that the caller made
  kOperate,  // scope operate
  kAdmin,    // scope admin
  kAgent,    // the secret of the attempt that the request names
};

// The threads that a call runs on. Lanes do not wait for one another.
enum class Lane : std::uint8_t { kRead, kMutation, kInteractive, kAgent, kStream, kHeavy };
inline constexpr int kLanes = 6;

struct MethodRule {
  std::string_view name;  // "lockstep.v1.RunService/GetRun"
  Access access;
  CallKind kind;
  Lane lane;
  bool mutates;  // a refusal is recorded in the audit log
};

// Every method that the server answers. What is not here is refused.
std::span<const MethodRule> method_table();

// nullptr: refuse.
const MethodRule* find_method(std::string_view name);

// Scopes as a set, with what each includes.
class Scopes {
 public:
  static constexpr std::uint8_t kRead = 1;
  static constexpr std::uint8_t kSubmit = 2;
  static constexpr std::uint8_t kOperate = 4;
  static constexpr std::uint8_t kAdmin = 8;

  // Names that are no scope add nothing.
  void add(std::string_view name);
  bool has(std::uint8_t scope) const { return (bits_ & scope) != 0; }
  // kOwn holds with submit too: whose run it is must then be asked. Never holds for kAgent.
  bool allow(Access access) const;

 private:
  std::uint8_t bits_ = 0;
};

const char* to_string(Access access);  // the scope that a message asks for

}  // namespace lockstep::coordinator
