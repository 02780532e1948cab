// tests/tensor/sha256_test.cpp -- the standard's vectors, and pieces against the whole
#include "tensor/io/sha256.h"

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;

TEST_CASE("sha256/vectors/fips_180_4") {
  CHECK(Sha256().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(Sha256().update("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(
      Sha256().update("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq").hex() ==
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(
      Sha256().update(std::string(1000000, 'a')).hex() ==
      "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("sha256/streaming/every_split_of_every_length_up_to_two_blocks") {
  std::string text;
  for (int i = 0; i < 130; ++i) text += static_cast<char>(i * 7 + 1);
  for (std::size_t n = 0; n <= text.size(); ++n) {
    const std::string whole = Sha256().update(text.substr(0, n)).hex();
    Sha256 bytewise;
    for (std::size_t i = 0; i < n; ++i) bytewise.update(text.substr(i, 1));
    CHECK(bytewise.hex() == whole);
    CHECK(bytewise.hex() == whole);  // hex() does not disturb the state
    CHECK(Sha256().update(text.substr(0, n / 3)).update(text.substr(n / 3, n - n / 3)).hex() == whole);
  }
}

TEST_CASE("sha256/portable/the_plain_loop_gives_the_same") {
  CHECK(Sha256(true).update("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(
      Sha256(true).update(std::string(1000000, 'a')).hex() ==
      "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i * i * 7 + 3 * i);
  for (std::size_t n = 0; n <= text.size(); ++n)
    CHECK(Sha256(true).update(text.substr(0, n)).hex() == Sha256().update(text.substr(0, n)).hex());
}

TEST_CASE("sha256/file/equals_bytes_and_missing_is_an_error") {
  const test::TempDir dir;
  std::string text(3000001, 'q');
  text[5] = '\0';
  write_text_atomic(dir / "f", text);
  CHECK(sha256_of_file(dir / "f") == Sha256().update(text).hex());
  CHECK_THROWS_AS(sha256_of_file(dir / "none"), FileError);
  CHECK_THROWS_AS(sha256_of_file(dir.path()), FileError);
}
