# repsim/_hopper.so: the fused operations for sm_90a, a plain C library beside the module. It needs the CuTe headers.
include(${CMAKE_CURRENT_LIST_DIR}/cutlass.cmake)
if(NOT "90a-real" IN_LIST REPSIM_CUDA_ARCHS)
  message(STATUS "repsim: no fused operations for Hopper, as REPSIM_CUDA_ARCHS has no 90a-real")
  return()
elseif(NOT cutlass_headers)
  message(STATUS "repsim: no CUTLASS headers found, so no fused operations for Hopper; set REPSIM_CUTLASS_DIR")
  return()
endif()

add_library(_hopper SHARED
  csrc/cuda/hopper_launch.cu
  csrc/cuda/hopper_split.cu
  csrc/cuda/hopper_kernel_sums.cu
  csrc/cuda/hopper_nearest.cu
  csrc/cuda/hopper_library.cu)
set_target_properties(_hopper PROPERTIES PREFIX "" CUDA_ARCHITECTURES 90a-real CUDA_VISIBILITY_PRESET hidden)
target_include_directories(_hopper PRIVATE ${cutlass_headers})
target_compile_options(_hopper PRIVATE --expt-relaxed-constexpr -Xptxas=-v)
install(TARGETS _hopper LIBRARY DESTINATION repsim)
if(NOT REPSIM_SANITIZE AND SKBUILD AND EXISTS ${CMAKE_SOURCE_DIR}/.git)
  add_custom_command(TARGET _hopper POST_BUILD
    COMMAND ${CMAKE_COMMAND} -E copy_if_different $<TARGET_FILE:_hopper> ${CMAKE_SOURCE_DIR}/repsim)
endif()
