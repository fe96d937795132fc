# repsim._cuda: the operations on the GPU, in a module of their own. repsim._core is the same file with and without it,
# a machine without a GPU never loads it, and "built without CUDA" is a file that is not there.
set(REPSIM_CUDA AUTO CACHE STRING "CUDA operations: AUTO (where nvcc 12 or later and an NVIDIA driver are), ON or OFF")
set_property(CACHE REPSIM_CUDA PROPERTY STRINGS AUTO ON OFF)
set(REPSIM_CUDA_ARCHS "80;90a-real" CACHE STRING "CUDA architectures, as CMAKE_CUDA_ARCHITECTURES; PTX of 8.0 runs on later ones")

set(cuda_sources
  csrc/cuda/rows.cu
  csrc/cuda/bfloat16_tile.cu
  csrc/cuda/kernel_sums.cu
  csrc/cuda/distances.cu
  csrc/cuda/nearest.cu
  csrc/cuda/rank_neighbours.cu)

if(NOT REPSIM_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "repsim: expected REPSIM_CUDA=AUTO, ON or OFF, got ${REPSIM_CUDA}")
endif()
if(REPSIM_CUDA STREQUAL "OFF")
  return()
endif()

include(CheckLanguage)
if(REPSIM_CUDA STREQUAL "AUTO")
  # A compiler alone, as on a build server, is no reason to compile for minutes: AUTO also wants the driver.
  if(NOT EXISTS /dev/nvidiactl AND NOT EXISTS /dev/dxg)
    message(STATUS "repsim: no NVIDIA driver here, so no CUDA operations; REPSIM_CUDA=ON builds them all the same")
    return()
  endif()
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    message(STATUS "repsim: no working nvcc found, so no CUDA operations")
    return()
  endif()
endif()
set(CMAKE_CUDA_ARCHITECTURES ${REPSIM_CUDA_ARCHS})
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12)
  if(REPSIM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "repsim: expected nvcc 12 or later for REPSIM_CUDA=ON, got ${CMAKE_CUDA_COMPILER_VERSION}")
  endif()
  message(STATUS "repsim: nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 12, so no CUDA operations")
  return()
endif()

set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
nanobind_add_module(_cuda NB_STATIC csrc/cuda_bindings.cpp ${cuda_sources})
# No fused multiply-adds where float64 scores are to be the bits of the CPU.
set_source_files_properties(csrc/cuda/rows.cu csrc/cuda/rank_neighbours.cu PROPERTIES COMPILE_OPTIONS -fmad=false)
target_include_directories(_cuda PRIVATE csrc/cuda/on_device)
target_compile_options(_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-v -lineinfo> $<$<COMPILE_LANGUAGE:CXX>:-O3 -Wall -Wextra>)
install(TARGETS _cuda LIBRARY DESTINATION repsim)
if(NOT REPSIM_SANITIZE AND SKBUILD AND EXISTS ${CMAKE_SOURCE_DIR}/.git)
  add_custom_command(TARGET _cuda POST_BUILD
    COMMAND ${CMAKE_COMMAND} -E copy_if_different $<TARGET_FILE:_cuda> ${CMAKE_SOURCE_DIR}/repsim)
endif()
include(csrc/cuda/hopper.cmake)
