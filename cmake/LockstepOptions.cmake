# Every choice a builder has, in one place. Nothing here sets directory-wide flags; LockstepTargets
# turns the choices into flags of each target.

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, RelWithDebInfo or Debug" FORCE)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

option(LOCKSTEP_PORTABLE "Build for x86-64-v3 machines in general instead of this machine" OFF)
option(LOCKSTEP_BUILD_TESTS "Build the tests" ON)
option(LOCKSTEP_BUILD_BENCHMARKS "Build the benchmarks" ON)

set(LOCKSTEP_SANITIZE none CACHE STRING "address (with undefined behaviour), thread, or none")
set_property(CACHE LOCKSTEP_SANITIZE PROPERTY STRINGS none address thread)
if(NOT LOCKSTEP_SANITIZE MATCHES "^(none|address|thread)$")
  message(FATAL_ERROR
    "LOCKSTEP_SANITIZE is '${LOCKSTEP_SANITIZE}'; expected address, thread or none")
endif()

set(LOCKSTEP_CUDA AUTO CACHE STRING
  "Build the CUDA module: AUTO (where nvcc is found), HERE (where a GPU is, too), ON or OFF")
set_property(CACHE LOCKSTEP_CUDA PROPERTY STRINGS AUTO HERE ON OFF)
if(NOT LOCKSTEP_CUDA MATCHES "^(AUTO|HERE|ON|OFF)$")
  message(FATAL_ERROR "LOCKSTEP_CUDA is '${LOCKSTEP_CUDA}'; expected AUTO, HERE, ON or OFF")
endif()
set(LOCKSTEP_CUDA_ARCHITECTURES "80-real;90a-real" CACHE STRING
  "GPU architectures of the CUDA module, as CMAKE_CUDA_ARCHITECTURES takes them")
