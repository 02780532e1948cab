// tests/tensor/torch_zip_test.cpp -- files of PyTorch, what is refused, and zips made to harm
#include "tensor/io/torch_zip.h"

#include <zip.h>

#include <cstring>

#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using test::golden;
using test::TempDir;

namespace {

std::vector<double> ramp(std::size_t n, double scale = 0.25, double offset = -1) {
  std::vector<double> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = static_cast<double>(i) * scale + offset;
  return values;
}

void check_tensors(const TorchZipFile& file) {
  CHECK(file.tensors().size() == 16);
  CHECK(file.load("f32").shape() == Shape{2, 3, 5});
  CHECK(test::gaps_are_zero(file.load("f32")));
  CHECK(file.load("f32").to_doubles() == ramp(30));
  CHECK(file.load("f64").dtype() == DType::f64);
  CHECK(file.load("f64").to_doubles() == ramp(3));
  CHECK(file.load("f16").dtype() == DType::f16);
  CHECK(file.load("f16").to_doubles() == ramp(7));
  CHECK(file.load("bf16").dtype() == DType::bf16);
  CHECK(file.load("bf16").to_doubles() == ramp(6));
  CHECK(
      file.load("i64").to_values<std::int64_t>() ==
      std::vector<std::int64_t>{-1, 999999999999, 1999999999999, 2999999999999});
  CHECK(file.load("i32").to_values<std::int32_t>() == std::vector<std::int32_t>{-1, 2, 5, 8});
  CHECK(file.load("u8").to_values<std::uint8_t>() == std::vector<std::uint8_t>{0, 9, 18, 27, 36, 45, 54, 63});
  CHECK(file.load("bool").to_values<std::uint8_t>() == std::vector<std::uint8_t>{1, 0, 1});
  CHECK(file.load("scalar").shape() == Shape{});
  CHECK(file.load("scalar").item() == 2.5);
  CHECK(file.load("empty").shape() == Shape{0, 3});
  CHECK_THROWS_WITH_AS(file.load("i16"), doctest::Contains("ShortStorage cannot be loaded"), FileError);
  // shared[r][c] = 0.25 * (6 r + c) - 1
  const auto shared = [](int r, int c) { return 0.25 * (6 * r + c) - 1; };
  std::vector<double> transposed, strided;
  for (int c = 0; c < 6; ++c)
    for (int r = 0; r < 4; ++r) transposed.push_back(shared(r, c));
  for (int r = 1; r < 4; ++r)
    for (int c = 0; c < 6; c += 2) strided.push_back(shared(r, c));
  CHECK(file.load("transposed").shape() == Shape{6, 4});
  CHECK(file.load("transposed").to_doubles() == transposed);
  CHECK(file.load("strided").to_doubles() == strided);
  CHECK(
      file.load("row").to_doubles() ==
      std::vector<double>{shared(2, 0), shared(2, 1), shared(2, 2), shared(2, 3), shared(2, 4), shared(2, 5)});
  CHECK(file.load("expanded").to_doubles() == std::vector<double>{1.5, -2.5, 1.5, -2.5, 1.5, -2.5});
  std::vector<double> permuted;  // [2,3,4] -> [4,2,3]
  for (int k = 0; k < 4; ++k)
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 3; ++j) permuted.push_back(0.25 * (i * 12 + j * 4 + k) - 1);
  CHECK(file.load("permuted").shape() == Shape{4, 2, 3});
  CHECK(file.load("permuted").to_doubles() == permuted);
}

using Members = std::vector<std::pair<std::string, std::string>>;

void write_zip(
    const std::filesystem::path& path, const Members& members, int method = ZIP_CM_STORE, bool encrypt = false) {
  zip_t* archive = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, nullptr);
  REQUIRE(archive != nullptr);
  for (const auto& [name, data] : members) {
    const auto index = zip_file_add(archive, name.c_str(), zip_source_buffer(archive, data.data(), data.size(), 0), 0);
    REQUIRE(index >= 0);
    zip_set_file_compression(archive, static_cast<zip_uint64_t>(index), method, 0);
    if (encrypt)
      REQUIRE(zip_file_set_encryption(archive, static_cast<zip_uint64_t>(index), ZIP_EM_AES_256, "secret") == 0);
  }
  REQUIRE(zip_close(archive) == 0);
}

std::string complaint_of_pickle(const std::string& pickle, const Members& others = {}) {
  const TempDir dir;
  Members members{{"a/data.pkl", "\x80\x02" + pickle}};
  members.insert(members.end(), others.begin(), others.end());
  write_zip(dir / "f.pt", members);
  try {
    const TorchZipFile file(dir / "f.pt");
    return "";
  } catch (const FileError& error) {
    const std::string text = error.what();
    CHECK(text.find('\n') == std::string::npos);
    return text;
  }
}

bool mentions(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string name(const std::string& text) {
  return "X" + std::string(1, static_cast<char>(text.size())) + std::string(3, '\0') + text;
}
std::string integer(int value) {
  std::string text(4, '\0');
  std::memcpy(text.data(), &value, 4);
  return "J" + text;
}
// A tensor of one dimension in storage '0'.
std::string tensor(int numel, int offset, int size, int stride, const std::string& type = "FloatStorage") {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + name("storage") + "ctorch\n" + type + "\n" + name("0") +
         name("cpu") + integer(numel) + "tQ" + integer(offset) + integer(size) + "\x85" + integer(stride) +
         "\x85\x89}tR.";
}

}  // namespace

TEST_CASE("torch_zip/pytorch/every_dtype_view_and_shape") { check_tensors(TorchZipFile(golden("files/tensors.pt"))); }
TEST_CASE("torch_zip/pytorch/protocol_5") { check_tensors(TorchZipFile(golden("files/tensors_protocol5.pt"))); }
TEST_CASE("torch_zip/pytorch/repacked_with_deflate") {
  check_tensors(TorchZipFile(golden("files/tensors_deflated.pt")));
}

TEST_CASE("torch_zip/pytorch/bare_tensor") {
  const TorchZipFile file(golden("files/bare.pt"));
  CHECK(file.names() == std::vector<std::string>{"tensor"});
  CHECK(file.load("tensor").to_doubles() == ramp(4));
}

TEST_CASE("torch_zip/pytorch/lightning_checkpoint") {
  const TorchZipFile file(golden("files/lightning.ckpt"));
  CHECK(file.load("state_dict.0.weight").shape() == Shape{2, 3});
  CHECK(file.load("state_dict.0.weight").to_doubles() == ramp(6, 0.25, 0));
  CHECK(file.load("state_dict.1.bias").to_doubles() == ramp(2, 0.25, 3));
  CHECK(file.load("state_dict.1.num_batches_tracked").to_values<std::int64_t>() == std::vector<std::int64_t>{1});
  CHECK(file.load("parameter").to_doubles() == ramp(2));
  CHECK(file.load("optimizer_states.0.state.0.exp_avg").shape() == Shape{2, 3});
  CHECK(file.load("optimizer_states.0.state.3.step").item() == 1);
  const auto& text = file.metadata();
  CHECK(text.at("epoch") == "3");
  CHECK(text.at("global_step") == "123456789012");
  CHECK(text.at("pytorch-lightning_version") == "1.9.0");
  CHECK(text.at("hyper_parameters.lr") == "0.001");
  CHECK(text.at("hyper_parameters.negative") == "-5");
  CHECK(text.at("hyper_parameters.big") == "<integer of 11 bytes>");
  CHECK(text.at("hyper_parameters.sizes.1") == "3");
  CHECK(text.at("lr_schedulers.0.milestones.10") == "1");
  CHECK(text.at("callbacks.raw") == "<3 bytes>");
  CHECK(text.at("callbacks.flags.0") == "true");
  CHECK(file.skipped().empty());
}

TEST_CASE("torch_zip/refused/unknown_class_is_named_or_skipped") {
  const auto path = golden("files/unknown_class.ckpt");
  CHECK_THROWS_WITH_AS(TorchZipFile{path}, doctest::Contains("asks for 'argparse.Namespace'"), FileError);
  const TorchZipFile file(path, UnknownObjects::skip);
  CHECK(file.skipped() == std::vector<std::string>{"argparse.Namespace"});
  CHECK(file.metadata().at("hyper_parameters") == "<argparse.Namespace, skipped>");
  CHECK(file.load("state_dict.0.weight").to_doubles() == ramp(6, 0.25, 0));
}

TEST_CASE("torch_zip/refused/malicious_pickles_are_named_and_never_run") {
  CHECK_THROWS_WITH_AS(
      TorchZipFile{golden("files/malicious_os_system.pt")}, doctest::Contains("asks for 'posix.system'"), FileError);
  CHECK_THROWS_WITH_AS(
      TorchZipFile{golden("files/malicious_eval.pt")}, doctest::Contains("asks for '__builtin__.eval'"), FileError);
  const TorchZipFile file(golden("files/malicious_os_system.pt"), UnknownObjects::skip);
  CHECK(file.skipped() == std::vector<std::string>{"posix.system"});
  CHECK(file.load("weight").to_doubles() == ramp(2));
  CHECK(!std::filesystem::exists("avid_was_here"));
  CHECK(mentions(complaint_of_pickle("cos\nsystem\n" + name("true") + "\x85R."), "asks for 'os.system'"));
  CHECK(mentions(
      complaint_of_pickle(name("os") + name("system") + "\x93" + name("true") + "\x85R."), "asks for 'os.system'"));
  CHECK(mentions(complaint_of_pickle("(" + name("true") + "ios\nsystem\n."), "asks for 'os.system'"));
  CHECK(mentions(complaint_of_pickle("cbuiltins\ngetattr\n."), "asks for 'builtins.getattr'"));
  CHECK(mentions(complaint_of_pickle("ctorch\nload\n."), "asks for 'torch.load'"));
  CHECK(mentions(complaint_of_pickle("cos\nsys\x01tem\n."), "'os.sys\\x01tem'"));
}

TEST_CASE("torch_zip/pickle/damage_is_one_line") {
  CHECK(complaint_of_pickle("}.").empty());
  CHECK(mentions(complaint_of_pickle(""), "truncated"));
  CHECK(mentions(complaint_of_pickle("}"), "truncated"));
  CHECK(mentions(complaint_of_pickle("."), "0 values left"));
  CHECK(mentions(complaint_of_pickle("}}."), "2 values left"));
  CHECK(mentions(complaint_of_pickle("t."), "no mark"));
  CHECK(mentions(complaint_of_pickle("(0."), "stack is empty"));
  CHECK(mentions(complaint_of_pickle("NN\x87."), "stack is empty"));
  CHECK(mentions(complaint_of_pickle("}NN\x86R."), "no function"));
  CHECK(mentions(complaint_of_pickle("h\x05."), "never filled"));
  CHECK(mentions(complaint_of_pickle("}(Nu."), "without a value"));
  CHECK(mentions(complaint_of_pickle("NNa."), "holds none"));
  CHECK(mentions(complaint_of_pickle("X\xff\xff\xff\x7f."), "truncated"));
  CHECK(mentions(complaint_of_pickle("\xff."), "opcode 0xff"));
  CHECK(mentions(complaint_of_pickle("\x80\x09."), "protocol 9"));
  CHECK(mentions(complaint_of_pickle("NQ."), "no tensor storage"));
  CHECK(mentions(complaint_of_pickle("ctorch._utils\n_rebuild_tensor_v2\n)R."), "without storage"));
  CHECK(mentions(
      complaint_of_pickle("]q\x01h\x01"
                          "a."),
      "within themselves"));  // a list that holds itself
  CHECK(mentions(complaint_of_pickle("]NNb."), "attributes"));
  std::string nested = "]";
  for (int i = 0; i < 40; ++i)
    nested += "q" + std::string(1, static_cast<char>(i)) + "0](h" + std::string(1, static_cast<char>(i)) + "h" +
              std::string(1, static_cast<char>(i)) + "e";
  CHECK(mentions(complaint_of_pickle(nested + "."), "repeated without end"));  // 2^40 lists, if anybody counted
}

TEST_CASE("torch_zip/pickle/small_files_cannot_ask_for_much_memory") {
  // One long text, encoded (copied) again and again.
  std::string copies = "]X" + std::string("\x40\x42\x0f\0", 4) + std::string(1'000'000, 'x') +
                       "q\x01"
                       "0c_codecs\nencode\nq\x02"
                       "0";
  copies += name("latin1") +
            "q\x03"
            "0(";
  for (int i = 0; i < 1000; ++i) copies += "h\x02h\x01h\x03\x86R";
  CHECK(mentions(complaint_of_pickle(copies + "e."), "copies more than"));
  // A long key above very many short values.
  std::string names = "}X" + std::string("\xa0\x0f\0\0", 4) + std::string(4000, 'k') + "](";
  for (int i = 0; i < 200'000; ++i) names += "K\x01";
  CHECK(mentions(complaint_of_pickle(names + "es."), "long names are repeated"));
}

TEST_CASE("torch_zip/script/attributes_of_modules_are_names") {
  const TorchZipFile file(golden("files/script.pt"));
  CHECK(file.load("first.0.weight").shape() == Shape{3, 2, 1, 1});
  CHECK(file.load("first.0.weight").to_doubles() == ramp(6));
  CHECK(file.load("first.1.running_mean").to_doubles() == ramp(3));
  CHECK(file.load("first.1.running_var").to_doubles() == std::vector<double>{1, 1, 1});
  CHECK(file.contains("first.1.num_batches_tracked"));
  CHECK(file.tensors().size() == 6);
  CHECK(file.metadata().at("training") == "false");
  CHECK(file.metadata().at("sizes.1") == "5");
}

TEST_CASE("torch_zip/storage/sizes_and_bounds") {
  const Members data{{"a/data/0", std::string(16, '\1')}};
  CHECK(complaint_of_pickle(tensor(4, 0, 4, 1), data).empty());
  CHECK(complaint_of_pickle(tensor(4, 1, 2, 2), data).empty());
  CHECK(complaint_of_pickle(tensor(4, 4, 0, 1), data).empty());
  CHECK(mentions(complaint_of_pickle(tensor(4, 0, 4, 1)), "storage '0' is missing"));
  CHECK(mentions(complaint_of_pickle(tensor(5, 0, 4, 1), data), "16 bytes, 5 elements"));
  CHECK(mentions(complaint_of_pickle(tensor(-4, 0, 4, 1), data), "16 bytes, -4 elements"));
  CHECK(mentions(complaint_of_pickle(tensor(4, 1, 4, 1), data), "reaches outside"));
  CHECK(mentions(complaint_of_pickle(tensor(4, 0, 2, 4), data), "reaches outside"));
  CHECK(mentions(complaint_of_pickle(tensor(4, 0, 2, -1), data), "reaches outside"));
  CHECK(mentions(complaint_of_pickle(tensor(4, -1, 2, 1), data), "reaches outside"));
  CHECK(mentions(complaint_of_pickle(tensor(4, 0, -1, 1), data), "absurd"));
  CHECK(mentions(complaint_of_pickle(tensor(4, 0, 2000000000, 0), data), "repeated from a storage of 4"));
  CHECK(mentions(complaint_of_pickle(tensor(4, 0, 4, 1, "Size"), data), "no storage class"));
}

TEST_CASE("torch_zip/container/foreign_and_hostile_zips") {
  const TempDir dir;
  const auto complaint = [&] {
    try {
      const TorchZipFile file(dir / "f");
      for (const auto& tensor : file.tensors()) file.load(tensor.name);
      return std::string();
    } catch (const FileError& error) {
      return std::string(error.what());
    }
  };
  write_zip(dir / "f", {{"a/data.pkl", "\x80\x02}."}, {"a/byteorder", "big"}});
  CHECK(mentions(complaint(), "byte order"));
  write_zip(dir / "f", {{"a/data.pkl", "\x80\x02}."}, {"b/data.pkl", "\x80\x02}."}});
  CHECK(mentions(complaint(), "more than one data.pkl"));
  write_zip(dir / "f", {{"a/other", "x"}});
  CHECK(mentions(complaint(), "no data.pkl"));
  write_zip(dir / "f", {{"a/data.pkl", "\x80\x02}."}}, ZIP_CM_STORE, true);
  CHECK(mentions(complaint(), "encrypted"));
  write_text_atomic(dir / "f", "no zip at all");
  CHECK(mentions(complaint(), "not a zip file"));
  // 40 MB of empty lists in a few kB: refused before it is unpacked.
  write_zip(dir / "f", {{"a/data.pkl", "\x80\x02" + std::string(40'000'000, ']') + "."}}, ZIP_CM_DEFLATE);
  CHECK(std::filesystem::file_size(dir / "f") < 100'000);
  CHECK(mentions(complaint(), "zip bomb"));
  // 4 MB of them are unpacked, but make no more values than the file can account for.
  write_zip(dir / "f", {{"a/data.pkl", "\x80\x02" + std::string(4'000'000, ']') + "."}}, ZIP_CM_DEFLATE);
  CHECK(mentions(complaint(), "exhaust memory"));
}

TEST_CASE("torch_zip/container/declared_size_is_not_believed") {
  const TempDir dir;
  write_zip(
      dir / "good", {{"a/data.pkl", "\x80\x02" + tensor(256, 0, 256, 1)}, {"a/data/0", std::string(1024, '\0')}},
      ZIP_CM_DEFLATE);
  CHECK(TorchZipFile(dir / "good").load("tensor").numel() == 256);
  const std::string bytes = read_text(dir / "good");
  // The directory entry (PK\1\2) of a/data/0: packed size at 20, unpacked size at 24.
  const std::size_t entry = bytes.rfind("PK\1\2");
  REQUIRE(entry != std::string::npos);
  for (const std::uint32_t declared : {1020u, 1028u, 0x7fffffffu, 0xfffffff0u}) {
    std::string changed = bytes;
    std::memcpy(changed.data() + entry + 24, &declared, 4);
    write_text_atomic(dir / "bad", changed);
    CHECK_THROWS_AS(TorchZipFile(dir / "bad").load("tensor"), FileError);
  }
  std::string overlapping = bytes;
  const std::uint32_t more = static_cast<std::uint32_t>(bytes.size());
  std::memcpy(overlapping.data() + entry + 20, &more, 4);
  write_text_atomic(dir / "bad", overlapping);
  CHECK_THROWS_AS(TorchZipFile{dir / "bad"}, FileError);
}
