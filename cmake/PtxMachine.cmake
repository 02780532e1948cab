# AVID_PTX_MACHINE: device cuda on a machine without a GPU. nvcc compiles every kernel to PTX and no further, and
# programs are linked to kernels/ptx in the place of CUDA's runtime: it interprets that PTX. A build of its own:
#
#   cmake -S . -B build-ptx -G Ninja -DCMAKE_BUILD_TYPE=Release -DAVID_PTX_MACHINE=ON
#
# Its programs need no driver, and never find a GPU. The text for compute capability 8.0 serves both devices that the
# machine can be, that for 9.0a the second.

if(AVID_PTX_MACHINE AND NOT CUDAToolkit_VERSION VERSION_GREATER_EQUAL 13)
  message(FATAL_ERROR "AVID_PTX_MACHINE: expected CUDA's toolkit, 13 or newer, found '${CUDAToolkit_VERSION}'")
endif()

# Instead of what cmake/Simulator.cmake sets for a GPU. Before the language CUDA is enabled.
macro(avid_ptx_settings)
  set(AVID_CUDA_RUNTIME avid_ptx)
  set(AVID_CUDA_CODE 80-virtual)
  set(AVID_SM90A_CODE compute_90a)
  set(CMAKE_CUDA_RUNTIME_LIBRARY None)
  string(APPEND CMAKE_CUDA_FLAGS " --compress-mode=none")  # what the machine reads, it reads as text
endmacro()

# The machine itself, which needs no CUDA, for its tests in every build; and with the runtime on top, the library of the
# name above.
function(avid_ptx_libraries)
  file(GLOB machine CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/ptx/*.cpp)
  add_library(avid_ptx_machine STATIC EXCLUDE_FROM_ALL ${machine})
  avid_compile_settings(avid_ptx_machine)
  # Products and sums round on their own, and registers are kept as words whatever lies in them.
  target_compile_options(avid_ptx_machine PRIVATE -march=${AVID_CPU_ARCH} -ffp-contract=off -fno-math-errno
                         -fno-strict-aliasing $<$<CONFIG:Release>:-O3>)
  if(AVID_PTX_MACHINE)
    file(GLOB runtime CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/ptx/runtime/*.cpp)
    add_library(avid_ptx STATIC ${runtime})
    avid_compile_settings(avid_ptx)
    target_compile_options(avid_ptx PRIVATE $<$<CONFIG:Release>:-O3>)
    target_link_libraries(avid_ptx PUBLIC avid_ptx_machine CUDA::toolkit OpenMP::OpenMP_CXX)
  endif()
endfunction()

# avid_ptx_tests(<name> <command...>): the command as tests ptx80/<name> and ptx90/<name>, on both devices that the
# machine can be; on the first work is done when it is queued, on the second when somebody waits for it.
function(avid_ptx_tests name)
  foreach(device IN ITEMS "80 early" "90 late")
    separate_arguments(device)
    list(GET device 0 arch)
    list(GET device 1 order)
    add_test(NAME ptx${arch}/${name} COMMAND ${ARGN})
    set_tests_properties(ptx${arch}/${name} PROPERTIES LABELS ptx TIMEOUT 3600
                         ENVIRONMENT "AVID_TEST_DEVICE=cuda;AVID_PTX_ARCH=${arch};AVID_PTX_ORDER=${order}")
  endforeach()
endfunction()
