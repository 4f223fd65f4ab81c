/* A driver library of the year before: enough of libcuda to be asked for its age. */
int cuDriverGetVersion(int* version) {
  *version = 12040;
  return 0;
}
int cuInit(unsigned flags) {
  (void)flags;
  return 0;
}
