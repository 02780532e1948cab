// tests/main.cpp -- doctest's main, shared by all test executables
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "tests/doctest.h"
