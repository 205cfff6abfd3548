#include "coordinator/store/schema.h"

#include <fmt/format.h>

#include "core/error.h"
#include "runtime/files/write_file.h"

namespace lockstep::coordinator {
namespace {

// Records, contexts and audit details are JSON texts (model/run_json.h). Rows of `events` and
// `audit` are never changed or removed.
constexpr const char* kVersion1 = R"sql(
CREATE TABLE counters (
  name TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT;
INSERT INTO counters VALUES ('fence', 0);
CREATE TABLE runs (
  id TEXT PRIMARY KEY,
  state TEXT NOT NULL,
  record TEXT NOT NULL,
  record_hash TEXT NOT NULL
) STRICT;
CREATE TABLE run_texts (
  run_id TEXT PRIMARY KEY REFERENCES runs (id) DEFERRABLE INITIALLY DEFERRED,
  config_yaml TEXT NOT NULL,
  config_source TEXT NOT NULL,
  resolved_config TEXT NOT NULL
) STRICT;
CREATE TABLE events (
  sequence INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL REFERENCES runs (id) DEFERRABLE INITIALLY DEFERRED,
  run_sequence INTEGER NOT NULL,
  kind TEXT NOT NULL,
  time_ns INTEGER NOT NULL,
  actor TEXT NOT NULL,
  context TEXT NOT NULL,
  UNIQUE (run_id, run_sequence)
) STRICT;
CREATE TABLE requests (
  caller TEXT NOT NULL,
  request_id TEXT NOT NULL,
  method TEXT NOT NULL,
  digest TEXT NOT NULL,
  resource TEXT NOT NULL,
  time_ns INTEGER NOT NULL,
  PRIMARY KEY (caller, request_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE tokens (
  name TEXT PRIMARY KEY,
  hash TEXT NOT NULL UNIQUE,
  scopes TEXT NOT NULL,
  create_time_ns INTEGER NOT NULL,
  expire_time_ns INTEGER NOT NULL,
  revoked INTEGER NOT NULL
) STRICT;
CREATE TABLE hosts (
  name TEXT PRIMARY KEY,
  drained INTEGER NOT NULL,
  drain_reason TEXT NOT NULL
) STRICT;
CREATE TABLE audit (
  sequence INTEGER PRIMARY KEY,
  time_ns INTEGER NOT NULL,
  actor TEXT NOT NULL,
  peer TEXT NOT NULL,
  method TEXT NOT NULL,
  resource TEXT NOT NULL,
  before_json TEXT NOT NULL,
  after_json TEXT NOT NULL,
  result TEXT NOT NULL,
  hash TEXT NOT NULL
) STRICT;
)sql";

void back_up(Database& database, const std::filesystem::path& file, std::int64_t version) {
  const std::string copy = fmt::format("{}.v{}.backup", file.string(), version);
  std::filesystem::remove(copy);  // of a migration that was interrupted
  database.prepare("VACUUM INTO ?").bind(copy).run();
  runtime::sync_path(copy);
  runtime::sync_path(file.parent_path().string());
}

}  // namespace

const std::vector<std::string>& store_migrations() {
  static const std::vector<std::string> migrations = {kVersion1};
  return migrations;
}

void migrate(Database& database, const std::filesystem::path& file,
             const std::vector<std::string>& migrations) {
  const std::int64_t version = database.integer("PRAGMA user_version");
  const auto newest = static_cast<std::int64_t>(migrations.size());
  if (version == newest) return;
  if (version > newest) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("{}: its schema has version {}, this program knows versions up to {}; start "
                    "the newer Lockstep, or restore the backup from before its update",
                    file.string(), version, newest));
  }
  if (version > 0) back_up(database, file, version);
  WriteTransaction transaction(database);
  for (std::int64_t step = version; step < newest; ++step) {
    database.execute(migrations[static_cast<std::size_t>(step)]);
  }
  database.execute(fmt::format("PRAGMA user_version = {}", newest));
  transaction.commit();
}

}  // namespace lockstep::coordinator
