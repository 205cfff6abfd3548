#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

namespace lockstep::fuzz {

MemoryFile::MemoryFile() : descriptor_(memfd_create("fuzz", MFD_CLOEXEC)) {
  require(descriptor_ >= 0, "cannot make a file in memory");
  path_ = "/proc/self/fd/" + std::to_string(descriptor_);
}

MemoryFile::~MemoryFile() {
  close(descriptor_);
}

void MemoryFile::fill(std::string_view bytes) const {
  require(ftruncate(descriptor_, 0) == 0, "cannot empty the file in memory");
  const ssize_t written = pwrite(descriptor_, bytes.data(), bytes.size(), 0);
  require(written == static_cast<ssize_t>(bytes.size()), "cannot write the file in memory");
}

LinkDirectory::LinkDirectory(const std::string& name, const MemoryFile& file) {
  std::string path = (std::filesystem::temp_directory_path() / "lockstep-fuzz-XXXXXX").string();
  require(mkdtemp(path.data()) != nullptr, "cannot make a directory");
  path_ = path;
  std::filesystem::create_symlink(file.path(), path_ / name);
}

LinkDirectory::~LinkDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace lockstep::fuzz
