# Whether the CUDA module is built, LOCKSTEP_HAVE_CUDA, and what `lockstep version` says of it,
# LOCKSTEP_CUDA_BUILD. Nothing but the module is compiled by nvcc or linked with CUDA.

set(LOCKSTEP_HAVE_CUDA FALSE)
set(LOCKSTEP_CUDA_BUILD "")
set(gpu_is_here FALSE)
if(LOCKSTEP_CUDA STREQUAL "HERE")
  file(GLOB gpus LIST_DIRECTORIES FALSE "/dev/nvidia[0-9]*")
  execute_process(COMMAND nvidia-smi -L RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
  if(gpus OR failed STREQUAL "0")
    set(gpu_is_here TRUE)
  endif()
endif()
if(LOCKSTEP_CUDA STREQUAL "OFF")
  set(LOCKSTEP_CUDA_BUILD "it was configured with LOCKSTEP_CUDA=OFF")
elseif(LOCKSTEP_CUDA STREQUAL "HERE" AND NOT gpu_is_here)
  set(LOCKSTEP_CUDA_BUILD "LOCKSTEP_CUDA=HERE found no GPU (no /dev/nvidia0, nothing in nvidia-smi -L)")
elseif(NOT LOCKSTEP_CUDA STREQUAL "ON" AND NOT LOCKSTEP_SANITIZE STREQUAL "none")
  set(LOCKSTEP_CUDA_BUILD "LOCKSTEP_CUDA=${LOCKSTEP_CUDA} leaves CUDA out of builds with sanitizers")
else()
  if(NOT CMAKE_CUDA_COMPILER)
    find_program(LOCKSTEP_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda
      PATH_SUFFIXES bin)
    mark_as_advanced(LOCKSTEP_NVCC)
    if(LOCKSTEP_NVCC)
      set(CMAKE_CUDA_COMPILER "${LOCKSTEP_NVCC}" CACHE FILEPATH "nvcc")
    endif()
  endif()
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES "${LOCKSTEP_CUDA_ARCHITECTURES}")
    set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}" CACHE FILEPATH "host compiler of nvcc")
    if(NOT DEFINED CMAKE_CUDA_COMPILER_LAUNCHER AND CMAKE_CXX_COMPILER_LAUNCHER)
      set(CMAKE_CUDA_COMPILER_LAUNCHER "${CMAKE_CXX_COMPILER_LAUNCHER}")
    endif()
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      enable_language(CUDA)
      find_package(CUDAToolkit QUIET)
    endif()
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    set(missing "nvcc (looked in PATH, \$CUDA_HOME/bin, \$CUDA_PATH/bin and /usr/local/cuda/bin)")
  elseif(NOT TARGET CUDA::cudart_static)
    set(missing "the CUDA runtime (libcudart_static.a) of ${CMAKE_CUDA_COMPILER}")
  elseif(NOT TARGET CUDA::cublasLt)
    set(missing "cuBLASLt (libcublasLt.so) of ${CMAKE_CUDA_COMPILER}")
  else()
    set(LOCKSTEP_HAVE_CUDA TRUE)
  endif()
  if(NOT LOCKSTEP_HAVE_CUDA)
    if(LOCKSTEP_CUDA STREQUAL "ON")
      message(FATAL_ERROR "LOCKSTEP_CUDA=ON needs ${missing}, which was not found. Install NVIDIA's "
        "CUDA toolkit and set CUDA_HOME, or build with LOCKSTEP_CUDA=OFF")
    endif()
    set(LOCKSTEP_CUDA_BUILD "LOCKSTEP_CUDA=${LOCKSTEP_CUDA} did not find ${missing}")
  endif()
endif()
if(LOCKSTEP_HAVE_CUDA)
  message(STATUS
    "CUDA module: nvcc ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${LOCKSTEP_CUDA_ARCHITECTURES}")
else()
  message(STATUS "CUDA module: not built; ${LOCKSTEP_CUDA_BUILD}")
endif()

# cuDNN: its headers are compiled against where they are found, the library is found at run time.
set(LOCKSTEP_HAVE_CUDNN FALSE)
set(LOCKSTEP_CUDNN_FOLDER "")
if(LOCKSTEP_HAVE_CUDA)
  find_path(LOCKSTEP_CUDNN_INCLUDE cudnn_graph.h HINTS ENV CUDNN_HOME ${CUDAToolkit_INCLUDE_DIRS}
    PATH_SUFFIXES include)
  find_library(LOCKSTEP_CUDNN_LIBRARY NAMES libcudnn.so.9 HINTS ENV CUDNN_HOME
    ${CUDAToolkit_LIBRARY_DIR} PATH_SUFFIXES lib lib64)
  mark_as_advanced(LOCKSTEP_CUDNN_INCLUDE LOCKSTEP_CUDNN_LIBRARY)
  if(LOCKSTEP_CUDNN_INCLUDE)
    file(STRINGS "${LOCKSTEP_CUDNN_INCLUDE}/cudnn_version.h" cudnn_numbers
      REGEX "^#define CUDNN_(MAJOR|MINOR|PATCHLEVEL) ")
    string(REGEX REPLACE "[^0-9]*([0-9]+)" ".\\1" cudnn_version "${cudnn_numbers}")
    string(REGEX REPLACE "^\\." "" cudnn_version "${cudnn_version}")
    if(cudnn_version VERSION_GREATER_EQUAL 9.8)
      set(LOCKSTEP_HAVE_CUDNN TRUE)
    endif()
  endif()
  if(LOCKSTEP_HAVE_CUDNN)
    message(STATUS "CUDA module: headers of cuDNN ${cudnn_version}")
  elseif(LOCKSTEP_CUDNN_INCLUDE)
    message(STATUS "CUDA module: without cuDNN; the headers in ${LOCKSTEP_CUDNN_INCLUDE} are of "
      "${cudnn_version}, it takes 9.8 or newer")
  else()
    message(STATUS "CUDA module: without cuDNN; cudnn_graph.h was not found (set CUDNN_HOME)")
  endif()
  if(LOCKSTEP_CUDNN_LIBRARY)
    get_filename_component(LOCKSTEP_CUDNN_FOLDER "${LOCKSTEP_CUDNN_LIBRARY}" DIRECTORY)
  endif()
endif()
configure_file("${PROJECT_SOURCE_DIR}/cmake/cuda_build.h.in"
  "${PROJECT_BINARY_DIR}/generated/core/cuda_build.h" @ONLY)

# Flags for a target with sources of nvcc: those of the house for its C++ sources, and for kernels
# the header that kernel.cuh needs.
function(lockstep_configure_cuda_target target)
  target_compile_features(${target} PRIVATE cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF
    CUDA_EXTENSIONS OFF
    POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:${LOCKSTEP_WARNINGS}>
    $<$<COMPILE_LANGUAGE:CXX>:${LOCKSTEP_COMPILE_FLAGS}>
    # fmt takes nvcc for a compiler without constexpr, and then fails on its own consteval.
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr --Werror all-warnings
      -DFMT_USE_CONSTEXPR=1 -Xcompiler=-Wall,-Wextra,-Wno-unused-parameter,-Wno-stringop-overflow,-Wno-array-bounds>)
  target_compile_definitions(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:LOCKSTEP_KERNEL_PLATFORM="core/cuda/nvidia/platform.cuh">)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}"
    "${PROJECT_BINARY_DIR}/generated")
endfunction()

# lockstep_stand_in_sources(VARIABLE kernel.cu...): what compiles kernels of the present folder as C++,
# for the stand-in. Without CUDA in the build the language of .cu files is unknown, with it it would be
# nvcc's; the stand-in wants C++ either way, through sources that include them.
function(lockstep_stand_in_sources variable)
  file(RELATIVE_PATH folder "${PROJECT_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}")
  set(sources)
  foreach(kernel IN LISTS ARGN)
    string(REGEX REPLACE "\\.cu$" "" name "${kernel}")
    string(REPLACE "/" "_" name "${name}")
    set(source "${CMAKE_CURRENT_BINARY_DIR}/stand_in_${name}.cc")
    file(CONFIGURE OUTPUT "${source}" CONTENT "#include \"${folder}/${kernel}\"\n")
    list(APPEND sources "${source}")
  endforeach()
  set(${variable} ${sources} PARENT_SCOPE)
endfunction()

# For a target of such sources.
function(lockstep_configure_stand_in target)
  target_compile_definitions(${target} PRIVATE
    LOCKSTEP_KERNEL_PLATFORM="core/cuda/stand_in/platform.cuh")
  target_compile_options(${target} PRIVATE -Wno-unknown-pragmas)
endfunction()
