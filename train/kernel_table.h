// train/kernel_table.h -- kernels/resources.tsv inside the program (cmake/KernelTable.cmake writes the text down)
#pragma once

#include <string_view>

namespace avid::train {

extern const std::string_view kKernelResources;

}  // namespace avid::train
