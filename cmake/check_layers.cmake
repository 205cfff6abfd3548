# cmake -DROOT=<source root> -P check_layers.cmake
# Fails if a file includes a layer that does not stand below its own, and names file and include.
cmake_minimum_required(VERSION 3.25)

set(below_core core)
set(below_comm core comm)
set(below_models core models)
set(below_runtime core comm models runtime)
set(below_launcher core comm models runtime launcher)

set(wrong "")
set(count 0)
foreach(layer core comm models runtime launcher)
  file(GLOB_RECURSE files RELATIVE "${ROOT}" "${ROOT}/${layer}/*.h" "${ROOT}/${layer}/*.cc"
    "${ROOT}/${layer}/*.cu")
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

if(wrong)
  message(FATAL_ERROR "Includes against the layer ladder (core < comm, models < runtime < launcher), "
    "or not by their full path from the root:\n${wrong}")
endif()
if(count EQUAL 0)
  message(FATAL_ERROR "No source files found under ROOT='${ROOT}'")
endif()
message(STATUS "${count} files keep to the layer ladder")
