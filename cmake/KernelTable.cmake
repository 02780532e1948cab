# What the compiler said about every kernel, kernels/resources.tsv, as text in the program: train/kernel_table.h.
file(READ ${PROJECT_SOURCE_DIR}/kernels/resources.tsv table)
set(cpp "// Written by cmake/KernelTable.cmake from kernels/resources.tsv.
#include \"train/kernel_table.h\"

namespace avid::train {
constinit const std::string_view kKernelResources = R\"tsv(${table})tsv\";
}  // namespace avid::train
")
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/kernel_table.cpp CONTENT "${cpp}" @ONLY)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/resources.tsv)
target_sources(avid_train PRIVATE ${CMAKE_BINARY_DIR}/generated/kernel_table.cpp)
