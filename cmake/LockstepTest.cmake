# lockstep_add_test(NAME name SOURCES file... [DEPENDS target...] [RANKS n...] [LABELS label...]
#                   [TIMEOUT seconds] [ENVIRONMENT var=value...])
#
# One GoogleTest executable. Without RANKS it is one test `name` with gtest's own main. With RANKS it
# gets an MPI main (tests/support/gtest_mpi_main.cc) and becomes one test `name.ranks<n>` per rank
# count, each under mpirun. TIMEOUT (default 400) bounds each of them: `timeout` ends mpirun with
# SIGTERM first, so that no rank is left behind.
find_program(LOCKSTEP_TIMEOUT_COMMAND timeout REQUIRED)

set(LOCKSTEP_TEST_ENVIRONMENT OMP_WAIT_POLICY=passive)
if(LOCKSTEP_SANITIZE STREQUAL "thread")
  list(APPEND LOCKSTEP_TEST_ENVIRONMENT OMP_NUM_THREADS=1 # TSan does not know libgomp
    TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/support/tsan_suppressions.txt)
endif()
if(LOCKSTEP_SANITIZE STREQUAL "address")
  list(APPEND LOCKSTEP_TEST_ENVIRONMENT
    LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/support/lsan_suppressions.txt)
endif()

# Lets ranks share cores and run as root, as they do in containers and on small machines. Copies
# between processes go through shared memory; the alternative needs ptrace rights that containers
# often lack.
set(LOCKSTEP_MPI_ENVIRONMENT
  OMPI_ALLOW_RUN_AS_ROOT=1
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  OMPI_MCA_rmaps_base_oversubscribe=1
  PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe # the same of Open MPI 5
  OMPI_MCA_mpi_yield_when_idle=1
  OMPI_MCA_btl_vader_single_copy_mechanism=none
  OMP_NUM_THREADS=1)
if(LOCKSTEP_SANITIZE STREQUAL "address")
  # MPI's components keep allocations and are unloaded before leaks are looked for, so that no
  # suppression can name them; leaks are found by the tests of ranks as threads.
  list(APPEND LOCKSTEP_MPI_ENVIRONMENT ASAN_OPTIONS=detect_leaks=0)
endif()

function(lockstep_add_test)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME;TIMEOUT"
    "SOURCES;DEPENDS;RANKS;LABELS;ENVIRONMENT")
  if(arg_UNPARSED_ARGUMENTS OR NOT arg_NAME OR NOT arg_SOURCES)
    message(FATAL_ERROR
      "lockstep_add_test(${arg_NAME}): NAME or SOURCES missing or unknown: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 400)
  endif()
  if(arg_RANKS)
    set(main "${PROJECT_SOURCE_DIR}/tests/support/gtest_mpi_main.cc")
    set(libraries GTest::gmock MPI::MPI_CXX)
  else()
    set(main)
    set(libraries GTest::gmock_main)
  endif()
  lockstep_add_executable(NAME ${arg_NAME} SOURCES ${arg_SOURCES} ${main}
    DEPENDS ${arg_DEPENDS} lockstep::test_support ${libraries} OUTPUT_DIRECTORY tests HEADERS tests)
  # `tests_<label>` builds the tests of a label.
  foreach(label IN LISTS arg_LABELS)
    if(NOT TARGET tests_${label})
      add_custom_target(tests_${label})
    endif()
    add_dependencies(tests_${label} ${arg_NAME})
  endforeach()

  if(NOT arg_RANKS)
    add_test(NAME ${arg_NAME} COMMAND ${arg_NAME})
    set_tests_properties(${arg_NAME} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}"
      ENVIRONMENT "${LOCKSTEP_TEST_ENVIRONMENT};${arg_ENVIRONMENT}")
  endif()
  math(EXPR outer_timeout "${arg_TIMEOUT} + 15")
  foreach(ranks IN LISTS arg_RANKS)
    set(test ${arg_NAME}.ranks${ranks})
    add_test(NAME ${test} COMMAND ${LOCKSTEP_TIMEOUT_COMMAND} --kill-after=10 ${arg_TIMEOUT}
      ${MPIEXEC_EXECUTABLE} --oversubscribe --bind-to none -np ${ranks} $<TARGET_FILE:${arg_NAME}>)
    if(ranks GREATER 1)
      set_tests_properties(${test} PROPERTIES PROCESSORS 2)
    endif()
    set_tests_properties(${test} PROPERTIES TIMEOUT ${outer_timeout} LABELS "mpi;${arg_LABELS}"
      ENVIRONMENT "${LOCKSTEP_TEST_ENVIRONMENT};${LOCKSTEP_MPI_ENVIRONMENT};${arg_ENVIRONMENT}")
  endforeach()
endfunction()

# lockstep_add_tests(PREFIX prefix SOURCES file... DEPENDS target... [LABELS label...]
#                    [ENVIRONMENT var=value...])
# A plain test of its own for each source; its name is prefix_ and the path with _ for /.
function(lockstep_add_tests)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "PREFIX" "SOURCES;DEPENDS;LABELS;ENVIRONMENT")
  if(arg_UNPARSED_ARGUMENTS OR NOT arg_PREFIX OR NOT arg_SOURCES)
    message(FATAL_ERROR
      "lockstep_add_tests: PREFIX or SOURCES missing or unknown: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  foreach(source IN LISTS arg_SOURCES)
    string(REGEX REPLACE "\\.cc$" "" name "${arg_PREFIX}_${source}")
    string(REPLACE "/" "_" name "${name}")
    lockstep_add_test(NAME ${name} SOURCES ${source} DEPENDS ${arg_DEPENDS} LABELS ${arg_LABELS}
      ENVIRONMENT ${arg_ENVIRONMENT})
  endforeach()
endfunction()
