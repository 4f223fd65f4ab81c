// toml++'s non-template half, compiled once instead of in every file that reads TOML.
#define TOML_IMPLEMENTATION
#include <toml++/toml.h>
