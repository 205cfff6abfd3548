# What only makes building faster: a cache of compiled objects and precompiled headers. The program's
# bits depend on neither.

option(LOCKSTEP_CCACHE "Use ccache where it is found and no other compiler launcher is set" ON)
set(by_default ON)
if(CMAKE_CXX_COMPILER_LAUNCHER)
  set(by_default OFF) # whether it takes precompiled headers is unknown
endif()
option(LOCKSTEP_PRECOMPILE "Precompile the headers of the standard library and of dependencies"
  ${by_default})

# Paths below the source folder are hashed as relative ones, so that other clones and worktrees find
# the same objects; ccache takes precompiled headers only with this sloppiness.
if(LOCKSTEP_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(LOCKSTEP_CCACHE_PROGRAM ccache)
  mark_as_advanced(LOCKSTEP_CCACHE_PROGRAM)
  if(LOCKSTEP_CCACHE_PROGRAM)
    message(STATUS "Compiler cache: ${LOCKSTEP_CCACHE_PROGRAM}")
    set(CMAKE_CXX_COMPILER_LAUNCHER env "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}"
      CCACHE_SLOPPINESS=pch_defines,time_macros "${LOCKSTEP_CCACHE_PROGRAM}")
  endif()
endif()

# lockstep_precompile(NAME name KIND library|program FP_CONTRACT off|fast HEADERS header... DEPENDS target...)
# A set of precompiled headers `name`, made once for all targets that ask for it with
# lockstep_use_headers. GCC takes them only where flags are the same, hence a set for each kind of
# target. They hold no header of the project: those change, and a source names what it includes.
function(lockstep_precompile)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME;KIND;FP_CONTRACT" "HEADERS;DEPENDS")
  if(NOT LOCKSTEP_PRECOMPILE)
    return()
  endif()
  set(target lockstep_headers_${arg_NAME})
  set(source "${PROJECT_BINARY_DIR}/generated/${target}.cc")
  if(arg_KIND STREQUAL "program")
    file(CONFIGURE OUTPUT "${source}" CONTENT "int main() {}\n")
    add_executable(${target} EXCLUDE_FROM_ALL "${source}")
  else()
    file(CONFIGURE OUTPUT "${source}" CONTENT "// Stands for a set of precompiled headers.\n")
    add_library(${target} OBJECT EXCLUDE_FROM_ALL "${source}")
  endif()
  lockstep_configure_target(${target} ${arg_FP_CONTRACT})
  lockstep_cool(${target} ${arg_NAME})
  target_link_libraries(${target} PRIVATE ${arg_DEPENDS})
  list(TRANSFORM arg_HEADERS REPLACE "^(.+)$" "<\\1>")
  target_precompile_headers(${target} PRIVATE ${arg_HEADERS})
endfunction()

# What uses these sets computes nothing that takes time: job control, the command line, tests.
function(lockstep_cool target name)
  if(name MATCHES "^(json|service|tests)$" AND CMAKE_BUILD_TYPE STREQUAL "Release")
    target_compile_options(${target} PRIVATE -O1)
  endif()
endfunction()

function(lockstep_use_headers target name)
  lockstep_cool(${target} ${name})
  if(LOCKSTEP_PRECOMPILE AND NOT name STREQUAL "none")
    target_precompile_headers(${target} REUSE_FROM lockstep_headers_${name})
    # GCC 12 takes what it inlines from a precompiled header for code of ours, and then warns of its own
    # std::string. The sets of kernels stay with all warnings.
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13
       AND NOT name MATCHES "^(off|fast)$")
      target_compile_options(${target} PRIVATE -Wno-stringop-overread -Wno-stringop-overflow
        -Wno-array-bounds)
    endif()
  endif()
endfunction()

set(headers algorithm array chrono cmath condition_variable cstdint cstring filesystem fstream
  functional limits map memory mutex optional set span string string_view thread unordered_map utility
  vector fmt/format.h)
set(depends OpenMP::OpenMP_CXX Threads::Threads fmt::fmt spdlog::spdlog)
lockstep_precompile(NAME off KIND library FP_CONTRACT off HEADERS ${headers} DEPENDS ${depends})
lockstep_precompile(NAME fast KIND library FP_CONTRACT fast HEADERS ${headers} DEPENDS ${depends})
list(APPEND headers nlohmann/json.hpp)
list(APPEND depends nlohmann_json::nlohmann_json)
lockstep_precompile(NAME json KIND library FP_CONTRACT off HEADERS ${headers} DEPENDS ${depends})
# gRPC's and CLI11's are parsed longer than anything of the project.
lockstep_precompile(NAME service KIND library FP_CONTRACT off
  HEADERS ${headers} grpcpp/grpcpp.h CLI/CLI.hpp
  DEPENDS ${depends} gRPC::grpc++ protobuf::libprotobuf CLI11::CLI11)
if(LOCKSTEP_BUILD_TESTS)
  lockstep_precompile(NAME tests KIND program FP_CONTRACT off
    HEADERS ${headers} gmock/gmock.h gtest/gtest.h DEPENDS ${depends} GTest::gmock)
endif()
