// train/version.cpp -- the build writes avid_version.h (cmake/Version.cmake)
#include "train/version.h"

#include "avid_version.h"

namespace avid::train {

std::string program_version() { return AVID_VERSION_TEXT; }
std::string program_commit() { return AVID_COMMIT_TEXT; }

}  // namespace avid::train
