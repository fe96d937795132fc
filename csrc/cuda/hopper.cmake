# repsim/_hopper.so: the fused operations for sm_90a, a plain C library beside the module. It needs the CuTe headers of
# `pip install --no-deps nvidia-cutlass==4.2.0.0`, found without importing it, or a CUTLASS 4.2 in REPSIM_CUTLASS_DIR,
# set for CMake or in the environment.
set(REPSIM_CUTLASS_DIR "" CACHE PATH "A CUTLASS tree, with include/cute")
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
    "import importlib.util as u; s = u.find_spec('cutlass_library'); print(s.submodule_search_locations[0] + '/source' if s else '')"
  OUTPUT_VARIABLE cutlass_installed OUTPUT_STRIP_TRAILING_WHITESPACE)
find_path(cutlass_headers cute/tensor.hpp HINTS
  ${REPSIM_CUTLASS_DIR}/include $ENV{REPSIM_CUTLASS_DIR}/include ${cutlass_installed}/include NO_CACHE)
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
