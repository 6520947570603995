/* A stand-in for libnvidia-ml with one GPU that answers and one that does not. USED: percent; PIDS: list, then 0. */
#include <string.h>
typedef struct { unsigned pid; unsigned long long memory; unsigned a, b; } process;
typedef struct {
  unsigned field, scope;
  long long when, latency;
  int kind, status;
  union { double d; unsigned u; } value;
} field;
int nvmlInit_v2(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) {
  strncpy(text, "580.1", length);
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  *device = (void *)(0x100000000L + index);
  return index > 1 ? 6 : 0;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **device) {
  *device = (void *)0x100000000L;
  return strcmp(id, "0000:1B:00.0") ? 6 : 0;
}
int nvmlDeviceGetHandleByUUID(const char *id, void **device) {
  *device = (void *)0x100000000L;
  return strcmp(id, "GPU-1") ? 6 : 0;
}
static int ok(void *device) { return (long)device == 0x100000000L ? 0 : 2; }
int nvmlDeviceGetName(void *device, char *text, unsigned length) {
  strncpy(text, "NVIDIA Test", length);
  return ok(device);
}
int nvmlDeviceGetClockInfo(void *device, unsigned which, unsigned *value) {
  *value = which == 1 ? 1900 : 3200;
  return ok(device);
}
int nvmlDeviceGetMaxClockInfo(void *device, unsigned which, unsigned *value) {
  *value = which == 1 ? 1980 : 3201;
  return ok(device);
}
int nvmlDeviceGetMemoryBusWidth(void *device, unsigned *value) { *value = 6144; return ok(device); }
int nvmlDeviceGetPowerUsage(void *device, unsigned *value) { *value = 431500; return ok(device); }
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *value) {
  *value = 700000;
  return ok(device);
}
int nvmlDeviceGetTemperature(void *device, unsigned which, unsigned *value) {
  *value = 41;
  return ok(device);
}
int nvmlDeviceGetEccMode(void *device, int *now, int *later) {
  *now = 1;
  *later = 0;
  return ok(device);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *value) {
  *value = 0x5;
  return ok(device);
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned *value) {
  value[0] = USED;
  value[1] = 3;
  return ok(device);
}
#ifdef INSTANT
int nvmlDeviceGetFieldValues(void *device, int count, field *values) {
  for (int i = 0; i < count; i++) { values[i].status = values[i].field == 186 ? 0 : 3; values[i].value.u = 650250; }
  return ok(device);
}
#endif
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process *found) {
  static const unsigned pids[] = {PIDS};
  unsigned n = sizeof pids / sizeof *pids - 1, room = *count;
  *count = n;
  if (room < n) return 7;
  for (unsigned i = 0; i < n; i++) found[i].pid = pids[i];
  return ok(device);
}
