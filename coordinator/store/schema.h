#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "coordinator/store/database.h"

namespace lockstep::coordinator {

// The SQL that leads from version i to version i + 1 of the schema, for each i from 0.
const std::vector<std::string>& store_migrations();

// Brings a database to the newest version, all steps in one transaction. A database that is not new
// is first copied beside itself: FILE.v<version>.backup. Throws core::Error(kConfig), having
// changed nothing, if its version is newer than the migrations know.
void migrate(Database& database, const std::filesystem::path& file,
             const std::vector<std::string>& migrations);

}  // namespace lockstep::coordinator
