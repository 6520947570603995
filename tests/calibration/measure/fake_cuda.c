/* A stand-in for libcuda. START: what cuInit returns; COUNT: GPUs. */
#include <string.h>
int cuInit(unsigned flags) { return START; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int index) { *device = 7; return 0; }
int cuDeviceGetName(char *text, int length, int device) { strncpy(text, "NVIDIA Test", length); return 0; }
int cuDeviceGetPCIBusId(char *text, int length, int device) { strncpy(text, "0000:1B:00.0", length); return 0; }
int cuDeviceTotalMem_v2(unsigned long *bytes, int device) { *bytes = device == 7 ? 150000000000UL : 0; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
  *value = which == 16 ? 132 : which == 38 ? 52428800 : which == 75 ? 9 : 0;
  return 0;
}
