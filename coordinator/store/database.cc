#include "coordinator/store/database.h"

#include <fmt/format.h>
#include <sqlite3.h>

namespace lockstep::coordinator {
namespace {

constexpr int kBusyTimeoutMs = 10'000;

StoreFault fault_of(int code) {
  switch (code & 0xff) {
    case SQLITE_FULL:
      return StoreFault::kFull;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
      return StoreFault::kIo;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return StoreFault::kCorrupt;
    default:
      return StoreFault::kOther;
  }
}

}  // namespace

void Statement::Finalize::operator()(sqlite3_stmt* statement) const {
  sqlite3_finalize(statement);
}

Statement::Statement(Database& database, std::string_view sql) : database_(&database) {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v2(database.handle(), sql.data(), static_cast<int>(sql.size()),
                                      &statement, nullptr);
  statement_.reset(statement);
  if (code != SQLITE_OK) database.fail(fmt::format("preparing '{}'", sql));
}

Statement::~Statement() = default;

Statement& Statement::bind(std::int64_t value) {
  if (sqlite3_bind_int64(statement_.get(), ++bound_, value) != SQLITE_OK) {
    database_->fail("binding a number");
  }
  return *this;
}

Statement& Statement::bind(std::string_view value) {
  // A null pointer would be NULL, which is another thing than an empty text.
  const char* data = value.data() == nullptr ? "" : value.data();
  if (sqlite3_bind_text64(statement_.get(), ++bound_, data, value.size(), SQLITE_TRANSIENT,
                          SQLITE_UTF8) != SQLITE_OK) {
    database_->fail("binding a text");
  }
  return *this;
}

bool Statement::step() {
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  database_->fail(fmt::format("'{}'", sqlite3_sql(statement_.get())));
}

void Statement::run() {
  while (step()) {
  }
  sqlite3_reset(statement_.get());
  sqlite3_clear_bindings(statement_.get());
  bound_ = 0;
}

std::int64_t Statement::integer(int column) const {
  return sqlite3_column_int64(statement_.get(), column);
}

std::string Statement::text(int column) const {
  const unsigned char* bytes = sqlite3_column_text(statement_.get(), column);
  if (bytes == nullptr) return {};
  const int length = sqlite3_column_bytes(statement_.get(), column);
  return {bytes, bytes + length};
}

void Database::Close::operator()(sqlite3* database) const {
  sqlite3_close_v2(database);
}

Database::Database(const std::filesystem::path& file, Mode mode) {
  sqlite3* database = nullptr;
  const int access =
      mode == Mode::kWrite ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY;
  const int code = sqlite3_open_v2(file.c_str(), &database, access | SQLITE_OPEN_NOMUTEX, nullptr);
  handle_.reset(database);
  if (code != SQLITE_OK) fail(fmt::format("opening {}", file.string()));
  sqlite3_extended_result_codes(database, 1);
  sqlite3_busy_timeout(database, kBusyTimeoutMs);
}

void Database::execute(const std::string& sql) {
  if (sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) {
    fail(fmt::format("'{}'", sql));
  }
}

std::int64_t Database::integer(std::string_view sql) {
  Statement statement = prepare(sql);
  if (!statement.step()) fail(fmt::format("'{}' without an answer", sql));
  return statement.integer(0);
}

void Database::fail(const std::string& doing) {
  const int code = sqlite3_extended_errcode(handle_.get());
  throw StoreError(fault_of(code), fmt::format("the store: {}: {} (SQLite code {})", doing,
                                               sqlite3_errmsg(handle_.get()), code));
}

WriteTransaction::WriteTransaction(Database& database) : database_(database) {
  database_.execute("BEGIN IMMEDIATE");
}

WriteTransaction::~WriteTransaction() {
  if (!open_) return;
  // Some errors have rolled back already; then there is nothing to do and this fails.
  sqlite3_exec(database_.handle(), "ROLLBACK", nullptr, nullptr, nullptr);
}

void WriteTransaction::commit() {
  database_.execute("COMMIT");
  open_ = false;
}

}  // namespace lockstep::coordinator
