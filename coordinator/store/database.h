#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

struct sqlite3;
struct sqlite3_stmt;

namespace lockstep::coordinator {

enum class StoreFault : std::uint8_t {
  kFull,     // no room on the disk
  kIo,       // reading, writing or forcing to disk failed
  kCorrupt,  // what was read is no database
  kOther,
};

// What SQLite refused, and in which statement. Nothing has been changed.
class StoreError : public std::runtime_error {
 public:
  StoreError(StoreFault fault, const std::string& message)
      : std::runtime_error(message), fault_(fault) {}
  StoreFault fault() const { return fault_; }

 private:
  StoreFault fault_;
};

class Database;

// One prepared statement. Parameters and columns count from 0 and are bound in order.
class Statement {
 public:
  Statement(Database& database, std::string_view sql);
  Statement(Statement&&) noexcept = default;
  ~Statement();

  Statement& bind(std::int64_t value);
  Statement& bind(std::string_view value);
  Statement& bind(const char* value) { return bind(std::string_view(value)); }

  bool step();  // whether there is a row
  void run();   // for statements without rows; may then be bound again

  std::int64_t integer(int column) const;
  std::string text(int column) const;

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  Database* database_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int bound_ = 0;
};

// One connection. Not thread-safe: its owner has a mutex.
class Database {
 public:
  enum class Mode : std::uint8_t { kWrite, kRead };
  Database(const std::filesystem::path& file, Mode mode);

  void execute(const std::string& sql);
  Statement prepare(std::string_view sql) { return {*this, sql}; }
  std::int64_t integer(std::string_view sql);  // the one number that it answers

  [[noreturn]] void fail(const std::string& doing);
  sqlite3* handle() { return handle_.get(); }

 private:
  struct Close {
    void operator()(sqlite3* database) const;
  };
  std::unique_ptr<sqlite3, Close> handle_;
};

// BEGIN IMMEDIATE; rolled back at the end of the scope unless committed.
class WriteTransaction {
 public:
  explicit WriteTransaction(Database& database);
  ~WriteTransaction();
  WriteTransaction(const WriteTransaction&) = delete;
  WriteTransaction& operator=(const WriteTransaction&) = delete;
  void commit();

 private:
  Database& database_;
  bool open_ = true;
};

}  // namespace lockstep::coordinator
