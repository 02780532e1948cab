// tests/kernels/fake_libcuda.cpp -- a driver without a device, for cuDNN's engines whose kernels are compiled on the
// spot
//
// Such an engine is offered where there is a driver only, and its plan is complete when the driver has taken the
// compiled kernel. This one takes everything, and runs nothing: so the plans of a GPU that is only described can be
// looked at. Found as "libcuda.so.1" by whoever asks after it was loaded.

#define TAKES(name) \
  extern "C" int name() { return 0; }

extern "C" int cuInit(unsigned) { return 100; }  // CUDA_ERROR_NO_DEVICE
extern "C" int cuGetProcAddress_v2() { return 500; }
extern "C" int cuGetExportTable() { return 500; }
extern "C" int cuDeviceGetCount(int* count) {
  *count = 0;
  return 0;
}
extern "C" int cuLibraryLoadData(void** library) {
  *library = library;
  return 0;
}
extern "C" int cuLibraryGetKernel(void** kernel) {
  *kernel = kernel;
  return 0;
}

TAKES(cuCtxGetCurrent)
TAKES(cuCtxGetDevice)
TAKES(cuCtxGetLimit)
TAKES(cuCtxPopCurrent)
TAKES(cuCtxPushCurrent)
TAKES(cuDeviceGet)
TAKES(cuDeviceGetAttribute)
TAKES(cuDevicePrimaryCtxRelease)
TAKES(cuDevicePrimaryCtxReset)
TAKES(cuDevicePrimaryCtxRetain)
TAKES(cuDriverGetVersion)
TAKES(cuFuncGetAttribute)
TAKES(cuFuncSetAttribute)
TAKES(cuGetErrorName)
TAKES(cuGetErrorString)
TAKES(cuKernelGetAttribute)
TAKES(cuKernelSetAttribute)
TAKES(cuLaunchCooperativeKernel)
TAKES(cuLaunchKernel)
TAKES(cuLaunchKernelEx)
TAKES(cuLibraryLoadFromFile)
TAKES(cuLibraryUnload)
TAKES(cuLinkAddData)
TAKES(cuLinkAddData_v2)
TAKES(cuLinkAddFile_v2)
TAKES(cuLinkComplete)
TAKES(cuLinkCreate)
TAKES(cuLinkCreate_v2)
TAKES(cuLinkDestroy)
TAKES(cuMemcpyDtoH_v2)
TAKES(cuModuleGetFunction)
TAKES(cuModuleGetGlobal_v2)
TAKES(cuModuleLoadData)
TAKES(cuModuleLoadDataEx)
TAKES(cuModuleLoadFatBinary)
TAKES(cuModuleUnload)
TAKES(cuOccupancyMaxActiveBlocksPerMultiprocessor)
TAKES(cuOccupancyMaxPotentialClusterSize)
TAKES(cuStreamGetCtx)
TAKES(cuStreamSynchronize)
TAKES(cuTensorMapEncodeTiled)
