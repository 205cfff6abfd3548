# cmake -DROOT=<source root> -P check_layers.cmake
# Fails if a file includes a layer that does not stand below its own, and names file and include.
cmake_minimum_required(VERSION 3.25)

set(below_core core)
set(below_comm core comm)
set(below_ops core ops)
set(below_models core ops models)
# The last ones hold what is made from .proto files.
set(below_runtime core comm ops models runtime lockstep)
set(below_coordinator core comm ops models runtime coordinator google lockstep)
set(below_launcher core comm ops models runtime coordinator launcher google lockstep)

set(wrong "")
set(count 0)
foreach(layer core comm ops models runtime coordinator launcher)
  file(GLOB_RECURSE files RELATIVE "${ROOT}" "${ROOT}/${layer}/*.h" "${ROOT}/${layer}/*.cc"
    "${ROOT}/${layer}/*.cu" "${ROOT}/${layer}/*.cuh")
  foreach(file IN LISTS files)
    math(EXPR count "${count} + 1")
    file(STRINGS "${ROOT}/${file}" includes REGEX "^[ \t]*#[ \t]*include[ \t]*\"")
    foreach(include IN LISTS includes)
      string(REGEX REPLACE "^[^\"]*\"([^/\"]*).*$" "\\1" folder "${include}")
      if(NOT folder IN_LIST below_${layer})
        string(APPEND wrong "  ${file}: ${include}\n")
      endif()
    endforeach()
  endforeach()
endforeach()

# Inside these layers the folders form a ladder too: each may include only those named before it. The
# layer's root holds no sources but those that put its folders together.
set(ladder_runtime
  config interchange files ranks version data step device sharding drills optimizer metrics checkpoint health plan
  simulate replay sampling report trainer)
set(ladder_coordinator model schedule store attempts engine server client agent)
foreach(layer runtime coordinator)
  set(below "")
  foreach(folder IN LISTS ladder_${layer})
    list(APPEND below ${folder})
    file(GLOB_RECURSE files RELATIVE "${ROOT}" "${ROOT}/${layer}/${folder}/*.h"
      "${ROOT}/${layer}/${folder}/*.cc")
    foreach(file IN LISTS files)
      file(STRINGS "${ROOT}/${file}" includes REGEX "^[ \t]*#[ \t]*include[ \t]*\"${layer}/")
      foreach(include IN LISTS includes)
        string(REGEX REPLACE "^[^\"]*\"${layer}/([^/\"]*).*$" "\\1" other "${include}")
        if(other IN_LIST ladder_${layer} AND NOT other IN_LIST below)
          string(APPEND wrong "  ${file}: ${include} (${folder} stands below ${other})\n")
        endif()
      endforeach()
    endforeach()
  endforeach()
  file(GLOB folders RELATIVE "${ROOT}/${layer}" "${ROOT}/${layer}/*")
  foreach(folder IN LISTS folders)
    if(IS_DIRECTORY "${ROOT}/${layer}/${folder}" AND NOT folder IN_LIST ladder_${layer}
       AND NOT folder MATCHES "^(cuda|proto)$")
      string(APPEND wrong "  ${layer}/${folder}: has no place in the ladder of cmake/check_layers.cmake\n")
    endif()
  endforeach()
endforeach()

# Only the ends of the coordinator know gRPC.
foreach(folder model schedule store attempts engine)
  file(GLOB files RELATIVE "${ROOT}" "${ROOT}/coordinator/${folder}/*.h"
    "${ROOT}/coordinator/${folder}/*.cc")
  foreach(file IN LISTS files)
    file(STRINGS "${ROOT}/${file}" includes REGEX "^[ \t]*#[ \t]*include")
    foreach(include IN LISTS includes)
      if(include MATCHES "grpc|\\.pb\\.h")
        string(APPEND wrong "  ${file}: ${include} (gRPC stays in server, client and agent)\n")
      endif()
    endforeach()
  endforeach()
endforeach()

if(wrong)
  message(FATAL_ERROR "Includes against the layer ladder (core < comm, ops < models < runtime < coordinator < launcher), "
    "or not by their full path from the root:\n${wrong}")
endif()
if(count EQUAL 0)
  message(FATAL_ERROR "No source files found under ROOT='${ROOT}'")
endif()
message(STATUS "${count} files keep to the layer ladder")
