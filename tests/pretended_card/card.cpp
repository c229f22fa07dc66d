// A pretended CUDA card for PyTorch's processor build. Code that asks for "cuda" runs unchanged: the card's memory is
// counted, limited host memory, and every kernel is the processor's. It counts what a real card would make one pay for:
// bytes allocated, bytes copied to and from it, synchronisations.
//
// Not pretended: asynchrony, real kernels and their workspaces, the choice of an attention kernel, Triton, CUDA graphs.
// It follows torch's internal headers closely, so it is built for the torch that is installed, and for no other.
#include <ATen/Context.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Copy.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorIterator.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/_scaled_dot_product_attention_math_native.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <unordered_set>

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;
using MaybeTensor = std::optional<Tensor>;

namespace {

const Device CARD(DeviceType::CUDA, 0);

// --- the card's state --------------------------------------------------------------------------------------------

std::mutex mutex;
int64_t total_bytes = int64_t(8) << 30;   // of the card
int64_t others_bytes = 0;                 // of these used by other programs, such as a desktop
int64_t limit_bytes = -1;                 // what this process may take of it; -1: all
int64_t allocated_bytes = 0, peak_bytes = 0;
int64_t to_card_bytes = 0, from_card_bytes = 0, pageable_bytes = 0;  // copied; pageable: from memory that is not pinned
int64_t allocations = 0, synchronizations = 0;
int64_t failing_allocation = -1;          // the number of the allocation that runs out of memory, once
bool lost = false;                        // after an illegal access every call fails
std::map<void*, int64_t> blocks;
std::unordered_set<const void*> pinned_blocks;
thread_local std::map<DeviceIndex, int64_t> current_streams;
thread_local int fallback_depth = 0;      // copies that a fallback makes are no traffic of the program's

int64_t block_size(size_t bytes) { return (bytes + 511) / 512 * 512; }  // PyTorch's allocator gives blocks of 512

void check_not_lost() {
  TORCH_CHECK(!lost, "CUDA error: an illegal memory access was encountered");
}

int64_t free_bytes() {  // to this process
  int64_t most = total_bytes - others_bytes;
  return (limit_bytes >= 0 ? std::min(limit_bytes, most) : most) - allocated_bytes;
}

void synchronize() {
  check_not_lost();
  std::lock_guard<std::mutex> guard(mutex);
  synchronizations++;
}

// --- memory ------------------------------------------------------------------------------------------------------

void free_block(void* block) {
  if (!block) return;
  {
    std::lock_guard<std::mutex> guard(mutex);
    auto entry = blocks.find(block);
    if (entry != blocks.end()) {
      allocated_bytes -= entry->second;
      blocks.erase(entry);
    }
  }
  free(block);
}

struct CardAllocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    check_not_lost();
    if (bytes == 0) return {nullptr, nullptr, &free_block, CARD};
    int64_t size = block_size(bytes);
    {
      std::lock_guard<std::mutex> guard(mutex);
      int64_t available = free_bytes();
      if (size > available || allocations++ == failing_allocation) {
        failing_allocation = -1;
        TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", size / 1048576.0,
                         " MiB. GPU 0 has a total capacity of ", total_bytes / 1073741824.0, " GiB of which ",
                         available / 1073741824.0, " GiB is free.");
      }
      allocated_bytes += size;
      peak_bytes = std::max(peak_bytes, allocated_bytes);
    }
    void* block = nullptr;
    TORCH_CHECK(posix_memalign(&block, 512, size) == 0);
    memset(block, 0xFF, 64);  // not-a-number: memory that is read before it is written shows
    std::lock_guard<std::mutex> guard(mutex);
    blocks[block] = size;
    return {block, block, &free_block, CARD};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, size_t bytes) const override { memcpy(to, from, bytes); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t = {0, 0}) override {}
  void recordStream(const c10::DataPtr&, Stream) override {}
  void resetAccumulatedStats(DeviceIndex) override {}
  void resetPeakStats(DeviceIndex) override {
    std::lock_guard<std::mutex> guard(mutex);
    peak_bytes = allocated_bytes;
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex) override {
    std::lock_guard<std::mutex> guard(mutex);
    c10::CachingDeviceAllocator::DeviceStats stats;
    for (auto* each : {&stats.allocated_bytes, &stats.reserved_bytes}) {
      (*each)[0].current = allocated_bytes;
      (*each)[0].peak = peak_bytes;
    }
    return stats;
  }
  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex) override {
    std::lock_guard<std::mutex> guard(mutex);
    return {total_bytes - others_bytes - allocated_bytes, total_bytes};
  }
} card_allocator;

void free_pinned(void* block) {
  std::lock_guard<std::mutex> guard(mutex);
  pinned_blocks.erase(block);
  free(block);
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* block = nullptr;
    if (bytes) {
      TORCH_CHECK(posix_memalign(&block, 512, block_size(bytes)) == 0);
      std::lock_guard<std::mutex> guard(mutex);
      pinned_blocks.insert(block);
    }
    return {block, block, &free_pinned, Device(DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* to, const void* from, size_t bytes) const override { memcpy(to, from, bytes); }
} pinned_allocator;

// --- the device: one card; streams have numbers and no order of their own ----------------------------------------

struct CardGuard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return CARD; }
  Device getDevice() const override { return CARD; }
  void setDevice(Device device) const override {
    TORCH_CHECK(device.index() < 1, "CUDA error: invalid device ordinal");
  }
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return Stream(Stream::UNSAFE, CARD, current_streams[0]); }
  Stream getDefaultStream(Device) const override { return Stream(Stream::UNSAFE, CARD, 0); }
  Stream getNewStream(Device, int) const override {
    static std::atomic<int64_t> number{1};
    return Stream(Stream::UNSAFE, CARD, number++);
  }
  Stream getStreamFromGlobalPool(Device device, bool) const override { return getNewStream(device, 0); }
  Stream exchangeStream(Stream stream) const override {
    Stream before = getStream(CARD);
    current_streams[0] = stream.id();
    return before;
  }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void** event, const Stream&, DeviceIndex, c10::EventFlag) const override { *event = (void*)1; }
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override { synchronize(); }
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(DeviceIndex) const override { synchronize(); }
  double elapsedTime(void*, void*, DeviceIndex) const override { return 0; }
};
C10_REGISTER_GUARD_IMPL(CUDA, CardGuard);

}  // namespace

namespace at {
struct CardHooks final : CUDAHooksInterface {
  explicit CardHooks(CUDAHooksArgs) {}
  CardHooks() = default;
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  int getNumGPUs() const override { return 1; }
  bool isPinnedPtr(const void* block) const override {
    std::lock_guard<std::mutex> guard(mutex);
    return pinned_blocks.count(block);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  c10::Allocator* getCUDADeviceAllocator() const override { return &card_allocator; }
  Device getDeviceFromPtr(void*) const override { return CARD; }
  const Generator& getDefaultGenerator(DeviceIndex) const override { return detail::getDefaultCPUGenerator(); }
  Generator getNewGenerator(DeviceIndex) const override { return make_generator<CPUGeneratorImpl>(); }
  void deviceSynchronize(DeviceIndex) const override { synchronize(); }
};
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, CardHooks);
}  // namespace at

namespace {

// --- tensors -----------------------------------------------------------------------------------------------------

Tensor on_processor(const at::TensorBase& base) {  // the same memory under the processor's name
  Tensor tensor(base);
  auto keep = [tensor](void*) {};
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), keep, tensor.options().device(at::kCPU));
}

void card_copy(at::TensorIterator& iterator, bool) {
  check_not_lost();
  const auto &to = iterator.tensor(0), &from = iterator.tensor(1);
  if (!fallback_depth && to.is_cuda() != from.is_cuda()) {
    std::lock_guard<std::mutex> guard(mutex);
    int64_t bytes = from.numel() * from.element_size();
    (to.is_cuda() ? to_card_bytes : from_card_bytes) += bytes;
    if (to.is_cuda() && !pinned_blocks.count(from.storage().data())) pageable_bytes += bytes;
  }
  Tensor target = to.is_cuda() ? on_processor(to) : Tensor(to);
  target.copy_(from.is_cuda() ? on_processor(from) : Tensor(from));
}

Tensor card_empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &card_allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   c10::dtype_or_default(dtype), format);
}

Tensor card_empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &card_allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                           c10::dtype_or_default(dtype));
}

const Tensor& card_resize(const Tensor& self, at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  at::native::resize_impl_cpu_(self.unsafeGetTensorImpl(), size, std::nullopt);
  if (format) self.unsafeGetTensorImpl()->empty_tensor_restride(*format);
  return self;
}

Tensor card_copy_from(const Tensor& self, const Tensor& to, bool) {
  Tensor(to).copy_(self);
  return to;
}

Tensor card_copy_from_and_resize(const Tensor& self, const Tensor& to) {
  if (to.sizes() != self.sizes()) card_resize(to, self.sizes(), std::nullopt);
  return card_copy_from(self, to, false);
}

Tensor card_as_strided(const Tensor& self, at::IntArrayRef size, at::IntArrayRef stride, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

Tensor& set_storage(Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(source);
  self.unsafeGetTensorImpl()->set_storage_offset(offset);
  self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride);
  return self;
}

Tensor& set_whole_storage(Tensor& self, at::Storage source) {
  return set_storage(self, source, 0, {int64_t(source.nbytes() / self.itemsize())}, {1});
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

at::Scalar item(const Tensor& self) {  // a real card must finish its work before a value can be read
  synchronize();
  return on_processor(self).item();
}

// --- arithmetic: what a half-precision card does in 16 bits with 32-bit sums, in 32 bits ---------------------------

void check_alike(const Tensor& one, const Tensor& other) {
  TORCH_CHECK(one.is_cuda() && other.is_cuda(), "Expected all tensors to be on the same device, but found at least two "
              "devices, ", one.device(), " and ", other.device());
  TORCH_CHECK(one.scalar_type() == other.scalar_type(), "expected mat1 and mat2 to have the same dtype, but got: ",
              one.scalar_type(), " != ", other.scalar_type());
}

Tensor widened(const Tensor& tensor) {
  Tensor here = on_processor(tensor);
  bool half = here.scalar_type() == at::kHalf || here.scalar_type() == at::kBFloat16;
  return half ? here.to(at::kFloat) : here;
}

MaybeTensor widened(const MaybeTensor& tensor) {
  return tensor && tensor->defined() ? MaybeTensor(widened(*tensor)) : std::nullopt;
}

Tensor on_card(const Tensor& result, const Tensor& like) {
  Tensor out = at::empty(result.sizes(), like.options().memory_format(result.suggest_memory_format()));
  on_processor(out).copy_(result);
  return out;
}

Tensor card_convolution(const Tensor& input, const Tensor& weight, const MaybeTensor& bias, at::IntArrayRef stride,
                   at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
                   int64_t groups) {
  TORCH_CHECK(weight.is_cuda() && (!bias || !bias->defined() || bias->is_cuda()),
              "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!");
  TORCH_CHECK(input.scalar_type() == weight.scalar_type(), "Input type (", input.scalar_type(), ") and bias type (",
              weight.scalar_type(), ") should be the same");
  return on_card(at::convolution(widened(input), widened(weight), widened(bias), stride, padding, dilation, transposed,
                                 output_padding, groups), input);
}

Tensor card_mm(const Tensor& one, const Tensor& other) {
  check_alike(one, other);
  return on_card(at::mm(widened(one), widened(other)), one);
}

Tensor card_bmm(const Tensor& one, const Tensor& other) {
  check_alike(one, other);
  return on_card(at::bmm(widened(one), widened(other)), one);
}

Tensor card_addmm(const Tensor& added, const Tensor& one, const Tensor& other, const at::Scalar& beta,
             const at::Scalar& alpha) {
  check_alike(one, other);
  check_alike(added, one);
  return on_card(at::addmm(widened(added), widened(one), widened(other), beta, alpha), one);
}

int64_t choose_attention(const Tensor&, const Tensor& key, const Tensor&, const MaybeTensor&, double, bool,
                         std::optional<double>, bool) {
  const auto& allowed = at::globalContext();
  bool other = allowed.userEnabledFlashSDP() || allowed.userEnabledMemEfficientSDP() || allowed.userEnabledMathSDP();
  TORCH_CHECK(other || key.size(-2) > 1, "No available kernel. Aborting execution.");  // as cuDNN has none for one key
  return 0;  // `attention` below, whatever was chosen
}

std::tuple<Tensor, Tensor> attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                     const MaybeTensor& mask, double, bool causal, const MaybeTensor&,
                                     std::optional<double> scale, bool grouped) {
  check_alike(query, key);
  check_alike(query, value);
  const auto& allowed = at::globalContext();
  bool fused = allowed.userEnabledFlashSDP() || allowed.userEnabledMemEfficientSDP() || allowed.userEnabledCuDNNSDP();
  if (!fused) {  // each of its operations runs on the card, so that its scores are counted there
    return at::native::_scaled_dot_product_attention_math(query, key, value, mask, 0.0, causal, {}, scale, grouped);
  }
  Tensor result = std::get<0>(at::_scaled_dot_product_attention_math(widened(query), widened(key), widened(value),
                                                                     widened(mask), 0.0, causal, {}, scale, grouped));
  Tensor out = on_card(result, query);
  return {out, out};
}

void fallback(const c10::OperatorHandle& operation, c10::DispatchKeySet, torch::jit::Stack* stack) {
  check_not_lost();
  struct Depth {
    Depth() { fallback_depth++; }
    ~Depth() { fallback_depth--; }
  } depth;
  at::native::cpu_fallback(operation, stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", card_empty);
  library.impl("empty_strided", card_empty_strided);
  library.impl("resize_", card_resize);
  library.impl("_copy_from", card_copy_from);
  library.impl("_copy_from_and_resize", card_copy_from_and_resize);
  library.impl("as_strided", card_as_strided);
  library.impl("view", at::native::view);
  library.impl("_reshape_alias", at::native::_reshape_alias);
  library.impl("set_.source_Storage_storage_offset", set_storage);
  library.impl("set_.source_Storage", set_whole_storage);
  library.impl("set_.source_Tensor", set_tensor);
  library.impl("record_stream", [](Tensor&, Stream) {});
  library.impl("_local_scalar_dense", item);
  library.impl("convolution", card_convolution);
  library.impl("mm", card_mm);
  library.impl("bmm", card_bmm);
  library.impl("addmm", card_addmm);
  library.impl("_scaled_dot_product_attention_math", attention);
}
TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

PYBIND11_MODULE(pretended_card, module) {
  // torch made its hooks when it was imported. Ours have the same layout and no data: the tables of functions swap.
  *(void**)const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks()) = *(void**)new at::CardHooks();
  c10::SetAllocator(DeviceType::CUDA, &card_allocator, 1);
  at::native::copy_stub.set_cuda_dispatch_ptr(&card_copy);
  at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&choose_attention);

  module.def("set_total_bytes", [](int64_t bytes) { total_bytes = bytes; });
  module.def("set_others_bytes", [](int64_t bytes) { others_bytes = bytes; });
  module.def("set_limit_bytes", [](int64_t bytes) { limit_bytes = bytes; });
  module.def("fail_allocation", [](int64_t later) { failing_allocation = allocations + later; });
  module.def("set_lost", [](bool now) { lost = now; });
  module.def("synchronize", &synchronize);
  module.def("reset_peak", [] { card_allocator.resetPeakStats(0); });
  module.def("counts", [] {
    std::lock_guard<std::mutex> guard(mutex);
    return std::map<std::string, int64_t>{
        {"total_bytes", total_bytes},         {"allocated_bytes", allocated_bytes},
        {"others_bytes", others_bytes},
        {"peak_bytes", peak_bytes},           {"allocations", allocations},
        {"to_card_bytes", to_card_bytes},     {"from_card_bytes", from_card_bytes},
        {"pageable_bytes", pageable_bytes},   {"synchronizations", synchronizations},
    };
  });
}
