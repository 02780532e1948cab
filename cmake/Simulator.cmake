# The device kernels, kernels/*.cu: for CUDA when there is a toolkit, and for the simulator always (kernels/sim).
#
#   AVID_SIM         the simulator: avid_kernels_sim, and AVID_HAVE_SIM=1 everywhere
#   AVID_CUDA        with a toolkit: avid_kernels_cuda, and AVID_HAVE_CUDA=1 everywhere
#   AVID_CUDA_ARCHS  architectures to compile for, e.g. "80;90"; with 90, *_wgmma.cu are compiled for sm_90a
#   AVID_KERNELS_MATCH  a regular expression: only these kernels and tests/sim (e.g. "mask_mix|adam"); for working on one kernel
# Included before the library targets, so that they see the definitions.

file(GLOB AVID_DEVICE_KERNELS CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/*.cu)
if(AVID_KERNELS_MATCH)
  list(FILTER AVID_DEVICE_KERNELS INCLUDE REGEX "/(${AVID_KERNELS_MATCH})\\.cu$")
endif()

if(AVID_CUDA AND CUDAToolkit_FOUND)
  # Not the first nvcc of the path but the one of the toolkit found; static runtime, so that the program needs a driver only.
  set(CMAKE_CUDA_ARCHITECTURES ${AVID_CUDA_ARCHS})
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has this dialect
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  if(AVID_CCACHE)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${AVID_CCACHE})
  endif()
  add_compile_definitions(AVID_HAVE_CUDA=1)
  set(AVID_HAVE_CUDA ON)
endif()
if(AVID_SIM)
  add_compile_definitions(AVID_HAVE_SIM=1)
endif()

# Called once the library targets exist: the backends become part of avid_tensor, whose ops dispatch to them.
function(avid_device_backends)
  if(AVID_HAVE_CUDA)
    target_link_libraries(avid_kernels PUBLIC CUDA::cudart_static)
    if(AVID_DEVICE_KERNELS)
      # *_wgmma.cu: code for sm_90a runs on compute capability 9.0 only, and their kernels are launched nowhere else.
      set(kernels ${AVID_DEVICE_KERNELS})
      set(hopper ${AVID_DEVICE_KERNELS})
      list(FILTER hopper INCLUDE REGEX "_wgmma\\.cu$")
      if(hopper AND "90" IN_LIST AVID_CUDA_ARCHS)
        list(REMOVE_ITEM kernels ${hopper})
        add_library(avid_kernels_sm90a OBJECT ${hopper})
        set_target_properties(avid_kernels_sm90a PROPERTIES CUDA_ARCHITECTURES OFF)
        target_include_directories(avid_kernels_sm90a PRIVATE ${PROJECT_SOURCE_DIR})
        target_compile_definitions(avid_kernels_sm90a PRIVATE AVID_SM90A=1)
        target_compile_options(avid_kernels_sm90a PRIVATE -gencode=arch=compute_90a,code=sm_90a
                               --expt-relaxed-constexpr --extended-lambda -lineinfo)
        list(APPEND kernels $<TARGET_OBJECTS:avid_kernels_sm90a>)
      endif()
      add_library(avid_kernels_cuda STATIC ${kernels})
      target_include_directories(avid_kernels_cuda PRIVATE ${PROJECT_SOURCE_DIR})
      target_compile_options(avid_kernels_cuda PRIVATE --expt-relaxed-constexpr --extended-lambda -lineinfo)
      target_link_libraries(avid_kernels_cuda PUBLIC avid_kernels)
      target_link_libraries(avid_tensor PUBLIC avid_kernels_cuda)
    endif()
  endif()
  # kernels/vendor: headers at build time, the libraries are loaded by the run that asks for them.
  file(GLOB vendor CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/vendor/*.cpp)
  add_library(avid_vendor STATIC ${vendor})
  avid_compile_settings(avid_vendor)
  target_link_libraries(avid_vendor PUBLIC avid_kernels PRIVATE ${CMAKE_DL_LIBS})
  if(TARGET avid_kernels_cuda)
    target_link_libraries(avid_vendor PUBLIC avid_kernels_cuda)
    find_path(AVID_CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    if(AVID_CUDNN_INCLUDE)
      target_compile_definitions(avid_vendor PRIVATE AVID_HAVE_CUDNN=1)
      target_include_directories(avid_vendor SYSTEM PRIVATE ${AVID_CUDNN_INCLUDE})
    else()
      message(STATUS "cuDNN's headers were not found: --conv cudnn will not be available")
    endif()
  endif()
  target_link_libraries(avid_tensor PUBLIC avid_vendor)
  if(AVID_SIM)
    add_subdirectory(${PROJECT_SOURCE_DIR}/kernels/sim)
    target_link_libraries(avid_tensor PUBLIC avid_kernels_sim)
    foreach(flavour IN ITEMS sim sim_asan sim_race)  # for tests/sim
      set(AVID_SIM_FLAGS_${flavour} ${AVID_SIM_FLAGS_${flavour}} PARENT_SCOPE)
    endforeach()
  endif()
endfunction()
