# Helpers that create targets with the flags of the house. Flags belong to targets, never to
# directories, so that reading one call tells how a file is compiled.

set(LOCKSTEP_WARNINGS
  -Wall -Wextra -Wshadow -Wconversion -Wnon-virtual-dtor -Woverloaded-virtual -Wold-style-cast
  -Wcast-align -Wvla -Wextra-semi -Werror)
# GCC 12 warns of its own std::string (GCC bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  list(APPEND LOCKSTEP_WARNINGS -Wno-restrict)
endif()

# -fno-math-errno and -fno-trapping-math let loops over sqrt and comparisons vectorise and keep every
# finiteness check; -ffast-math, which removes them, is never used. Contraction of a*b+c into one
# rounding is off unless a target asks (FP_CONTRACT), so that a function means the same bits
# wherever it is inlined.
set(LOCKSTEP_COMPILE_FLAGS -fno-math-errno -fno-trapping-math)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$" AND LOCKSTEP_PORTABLE)
  list(APPEND LOCKSTEP_COMPILE_FLAGS -march=x86-64-v3)
elseif(NOT LOCKSTEP_PORTABLE)
  list(APPEND LOCKSTEP_COMPILE_FLAGS -march=native)
endif()

# GCC judges what may be uninitialised by what its optimiser leaves; what sanitizers insert misleads it.
set(LOCKSTEP_SANITIZE_FLAGS)
if(LOCKSTEP_SANITIZE STREQUAL "address")
  set(LOCKSTEP_SANITIZE_FLAGS
    -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
    -Wno-maybe-uninitialized)
elseif(LOCKSTEP_SANITIZE STREQUAL "thread")
  set(LOCKSTEP_SANITIZE_FLAGS -fsanitize=thread -fno-omit-frame-pointer -Wno-maybe-uninitialized)
endif()

# What `lockstep version` and the first line of metrics.jsonl tell about the build.
string(TOUPPER "${CMAKE_BUILD_TYPE}" build_type_upper)
string(JOIN " " LOCKSTEP_BUILD_FLAGS ${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${build_type_upper}}
  ${LOCKSTEP_COMPILE_FLAGS} ${LOCKSTEP_SANITIZE_FLAGS})
configure_file("${PROJECT_SOURCE_DIR}/cmake/build_config.h.in"
  "${PROJECT_BINARY_DIR}/generated/core/build_config.h" @ONLY)

# Language level, warnings, machine, sanitizer and include root for one compiled target.
function(lockstep_configure_target target fp_contract)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
  target_compile_options(${target} PRIVATE ${LOCKSTEP_WARNINGS} ${LOCKSTEP_COMPILE_FLAGS}
    -ffp-contract=${fp_contract} ${LOCKSTEP_SANITIZE_FLAGS})
  target_link_options(${target} PRIVATE ${LOCKSTEP_SANITIZE_FLAGS})
  target_include_directories(${target} PUBLIC "${PROJECT_SOURCE_DIR}"
    "${PROJECT_BINARY_DIR}/generated")
endfunction()

# lockstep_add_library(NAME name SOURCES file... DEPENDS target... [FP_CONTRACT off|fast] [HEADERS set])
# A static library `lockstep_<name>`, alias `lockstep::<name>`. DEPENDS become public: a layer's
# headers show what it stands on. Without sources it is an interface library, so that a layer that
# holds only headers builds too. HEADERS is a set of precompiled ones (FasterBuilds.cmake); the default
# is that of the standard library.
function(lockstep_add_library)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME;FP_CONTRACT;HEADERS" "SOURCES;DEPENDS")
  if(arg_UNPARSED_ARGUMENTS OR NOT arg_NAME)
    message(FATAL_ERROR "lockstep_add_library: NAME missing or unknown: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT arg_FP_CONTRACT)
    set(arg_FP_CONTRACT off)
  endif()
  if(NOT arg_HEADERS)
    set(arg_HEADERS ${arg_FP_CONTRACT})
  endif()
  set(target lockstep_${arg_NAME})
  if(arg_SOURCES)
    add_library(${target} STATIC ${arg_SOURCES})
    lockstep_configure_target(${target} ${arg_FP_CONTRACT})
    target_link_libraries(${target} PUBLIC ${arg_DEPENDS})
    lockstep_use_headers(${target} ${arg_HEADERS})
  else()
    add_library(${target} INTERFACE)
    target_include_directories(${target} INTERFACE "${PROJECT_SOURCE_DIR}"
      "${PROJECT_BINARY_DIR}/generated")
    target_link_libraries(${target} INTERFACE ${arg_DEPENDS})
  endif()
  add_library(lockstep::${arg_NAME} ALIAS ${target})
endfunction()

# lockstep_add_executable(NAME name SOURCES file... DEPENDS target... [OUTPUT_DIRECTORY dir]
#                         [HEADERS set])
# OUTPUT_DIRECTORY is relative to the build folder; the default is bin. The default of HEADERS is none.
function(lockstep_add_executable)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME;OUTPUT_DIRECTORY;HEADERS" "SOURCES;DEPENDS")
  if(arg_UNPARSED_ARGUMENTS OR NOT arg_NAME OR NOT arg_SOURCES)
    message(FATAL_ERROR
      "lockstep_add_executable: NAME or SOURCES missing or unknown: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT arg_OUTPUT_DIRECTORY)
    set(arg_OUTPUT_DIRECTORY bin)
  endif()
  if(NOT arg_HEADERS)
    set(arg_HEADERS none)
  endif()
  add_executable(${arg_NAME} ${arg_SOURCES})
  lockstep_configure_target(${arg_NAME} off)
  target_link_libraries(${arg_NAME} PRIVATE ${arg_DEPENDS})
  lockstep_use_headers(${arg_NAME} ${arg_HEADERS})
  set_target_properties(${arg_NAME} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/${arg_OUTPUT_DIRECTORY}")
endfunction()

# lockstep_check_all_listed([EXCEPT file...])
# Stops the configuration when a *.cc or *.cu below the current folder is in no target made in it. Lists are
# explicit, so that a build compiles what was meant and nothing that lies about; this keeps a new file
# from being forgotten. One that git does not track yet is only told: it is still being written. Last
# line of a folder's CMakeLists.txt.
find_package(Git QUIET)
function(lockstep_check_all_listed)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "EXCEPT")
  set(listed ${arg_EXCEPT})
  get_property(targets DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(sources ${target} SOURCES)
    list(APPEND listed ${sources})
  endforeach()
  file(GLOB_RECURSE forgotten CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" *.cc *.cu)
  list(REMOVE_ITEM forgotten ${listed})
  # A folder below with a list of its own answers for its own files.
  get_property(subfolders DIRECTORY PROPERTY SUBDIRECTORIES)
  foreach(subfolder IN LISTS subfolders)
    file(RELATIVE_PATH subfolder "${CMAKE_CURRENT_SOURCE_DIR}" "${subfolder}")
    list(FILTER forgotten EXCLUDE REGEX "^${subfolder}/")
  endforeach()
  set(untracked "")
  if(forgotten AND GIT_FOUND)
    execute_process(COMMAND ${GIT_EXECUTABLE} ls-files --others -- ${forgotten}
      WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" OUTPUT_VARIABLE untracked ERROR_QUIET
      OUTPUT_STRIP_TRAILING_WHITESPACE)
    string(REPLACE "\n" ";" untracked "${untracked}")
    list(REMOVE_ITEM forgotten ${untracked})
  endif()
  set(list "${CMAKE_CURRENT_SOURCE_DIR}/CMakeLists.txt")
  foreach(file IN LISTS untracked)
    message(STATUS "Not built: ${file} is in no list of ${list}")
  endforeach()
  if(forgotten)
    list(JOIN forgotten ", " forgotten)
    message(FATAL_ERROR "In no list of ${list}: ${forgotten}; add, or remove")
  endif()
endfunction()
