# cutlass_headers: the folder of the CuTe headers of `pip install --no-deps nvidia-cutlass==4.2.0.0`, found without
# importing it, or of a CUTLASS 4.2 in REPSIM_CUTLASS_DIR, set for CMake or in the environment; or NOTFOUND.
set(REPSIM_CUTLASS_DIR "" CACHE PATH "A CUTLASS tree, with include/cute")
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
    "import importlib.util as u; s = u.find_spec('cutlass_library'); print(s.submodule_search_locations[0] + '/source' if s else '')"
  OUTPUT_VARIABLE cutlass_installed OUTPUT_STRIP_TRAILING_WHITESPACE)
find_path(cutlass_headers cute/tensor.hpp HINTS
  ${REPSIM_CUTLASS_DIR}/include $ENV{REPSIM_CUTLASS_DIR}/include ${cutlass_installed}/include NO_CACHE)
