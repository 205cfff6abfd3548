# Everything the build needs from outside. Each missing piece is named with the Debian package that
# holds it; scripts/setup installs them all.

# lockstep_require(CONDITION WHAT PACKAGE): stops the configuration unless CONDITION holds.
function(lockstep_require found what package)
  if(NOT found)
    message(FATAL_ERROR
      "${what} was not found. On Debian or Ubuntu: apt-get install ${package} "
      "(or run scripts/setup, which installs everything that is missing)")
  endif()
endfunction()

find_package(Threads QUIET)
lockstep_require("${Threads_FOUND}" "The POSIX threads library" libc6-dev)

find_package(OpenMP QUIET COMPONENTS CXX)
lockstep_require("${OpenMP_CXX_FOUND}" "OpenMP for C++" g++)

# The C++ bindings were removed from the MPI standard; only the C interface is used.
set(MPI_CXX_SKIP_MPICXX ON)
find_package(MPI QUIET COMPONENTS CXX)
lockstep_require("${MPI_CXX_FOUND}" "Open MPI (headers and library)" libopenmpi-dev)
lockstep_require("${MPIEXEC_EXECUTABLE}" "mpirun" openmpi-bin)

# Debian's own dnnl-config.cmake asks for OpenCL development files, which nothing here uses.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
find_library(DNNL_LIBRARY dnnl)
if(NOT DNNL_INCLUDE_DIR OR NOT DNNL_LIBRARY)
  lockstep_require("" "oneDNN" libdnnl-dev)
endif()
add_library(DNNL::dnnl UNKNOWN IMPORTED)
set_target_properties(DNNL::dnnl PROPERTIES IMPORTED_LOCATION "${DNNL_LIBRARY}"
  INTERFACE_INCLUDE_DIRECTORIES "${DNNL_INCLUDE_DIR}")
mark_as_advanced(DNNL_INCLUDE_DIR DNNL_LIBRARY)

find_package(yaml-cpp QUIET CONFIG)
lockstep_require("${yaml-cpp_FOUND}" "yaml-cpp" libyaml-cpp-dev)
if(NOT TARGET yaml-cpp::yaml-cpp) # 0.7 exports the target without a namespace
  add_library(yaml-cpp::yaml-cpp ALIAS yaml-cpp)
endif()

find_package(fmt QUIET CONFIG)
lockstep_require("${fmt_FOUND}" "fmt" libfmt-dev)

find_package(spdlog QUIET CONFIG)
lockstep_require("${spdlog_FOUND}" "spdlog" libspdlog-dev)

find_package(nlohmann_json QUIET CONFIG)
lockstep_require("${nlohmann_json_FOUND}" "JSON for Modern C++" nlohmann-json3-dev)

find_package(CLI11 QUIET CONFIG)
lockstep_require("${CLI11_FOUND}" "CLI11" libcli11-dev)

find_package(PkgConfig QUIET)
lockstep_require("${PkgConfig_FOUND}" "pkg-config" pkg-config)
pkg_check_modules(xxhash QUIET IMPORTED_TARGET libxxhash)
lockstep_require("${xxhash_FOUND}" "xxHash" libxxhash-dev)

find_package(Protobuf QUIET)
lockstep_require("${Protobuf_FOUND}" "Protobuf" libprotobuf-dev)
lockstep_require("${Protobuf_PROTOC_EXECUTABLE}" "protoc" protobuf-compiler)
find_package(gRPC QUIET CONFIG)
lockstep_require("${gRPC_FOUND}" "gRPC" libgrpc++-dev)
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin)
lockstep_require("${GRPC_CPP_PLUGIN}" "grpc_cpp_plugin" protobuf-compiler-grpc)
mark_as_advanced(GRPC_CPP_PLUGIN)
find_package(SQLite3 QUIET)
lockstep_require("${SQLite3_FOUND}" "SQLite" libsqlite3-dev)
find_package(OpenSSL QUIET COMPONENTS Crypto)
lockstep_require("${OPENSSL_FOUND}" "OpenSSL" libssl-dev)
# Debian's package has no CMake files.
find_path(HTTPLIB_INCLUDE_DIR httplib.h)
find_library(HTTPLIB_LIBRARY cpp-httplib)
if(NOT HTTPLIB_INCLUDE_DIR OR NOT HTTPLIB_LIBRARY)
  lockstep_require("" "cpp-httplib" libcpp-httplib-dev)
endif()
add_library(httplib::httplib UNKNOWN IMPORTED)
set_target_properties(httplib::httplib PROPERTIES IMPORTED_LOCATION "${HTTPLIB_LIBRARY}"
  INTERFACE_INCLUDE_DIRECTORIES "${HTTPLIB_INCLUDE_DIR}")
mark_as_advanced(HTTPLIB_INCLUDE_DIR HTTPLIB_LIBRARY)

find_path(LOCKSTEP_DYGRAPHS dygraph.min.js PATHS /usr/share/javascript/dygraphs
  /usr/local/share/javascript/dygraphs)
lockstep_require("${LOCKSTEP_DYGRAPHS}" "dygraphs (JavaScript)" libjs-dygraphs)
mark_as_advanced(LOCKSTEP_DYGRAPHS)

if(LOCKSTEP_BUILD_TESTS)
  find_package(GTest QUIET)
  lockstep_require("${GTest_FOUND}" "GoogleTest" libgtest-dev)
  if(NOT TARGET GTest::gmock)
    lockstep_require("" "GoogleMock" libgmock-dev)
  endif()
  # The system's own Python: others do not see Debian's packages.
  find_program(LOCKSTEP_PYTHON python3 PATHS /usr/bin NO_DEFAULT_PATH)
  lockstep_require("${LOCKSTEP_PYTHON}" "Python 3" python3)
  execute_process(COMMAND ${LOCKSTEP_PYTHON} -c "import grpc, google.protobuf"
    RESULT_VARIABLE LOCKSTEP_PYTHON_WITHOUT_GRPC OUTPUT_QUIET ERROR_QUIET)
  if(LOCKSTEP_PYTHON_WITHOUT_GRPC)
    lockstep_require("" "gRPC for Python" "python3-grpcio python3-protobuf")
  endif()
  find_program(GRPC_PYTHON_PLUGIN grpc_python_plugin)
  lockstep_require("${GRPC_PYTHON_PLUGIN}" "grpc_python_plugin" protobuf-compiler-grpc)
  mark_as_advanced(LOCKSTEP_PYTHON GRPC_PYTHON_PLUGIN)
endif()
