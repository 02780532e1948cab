// tests/doctest.h -- the one place that includes doctest
#pragma once

#include <doctest/doctest.h>
