// Says that main was reached, which the check of the processor is to prevent; even the constructor
// of a global object comes too late.
#include <cstdio>

namespace {

struct Announcement {
  Announcement() { std::puts("a constructor ran"); }
};
const Announcement announcement;

}  // namespace

int main() {
  std::puts("main ran");
  return 0;
}
