#pragma once

namespace lockstep::coordinator {

// A copy that `admin backup` made carries this counter, until it is opened as a store.
inline constexpr const char* kMarkBackup = "INSERT OR REPLACE INTO counters VALUES ('backup', 1)";
inline constexpr const char* kIsBackup =
    "SELECT coalesce(max(value), 0) FROM counters WHERE name = 'backup'";
inline constexpr const char* kClearBackup = "DELETE FROM counters WHERE name = 'backup'";

}  // namespace lockstep::coordinator
