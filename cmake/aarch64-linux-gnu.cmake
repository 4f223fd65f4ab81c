# Cross build for 64-bit ARM with Debian's compiler; used by tools/check_aarch64.sh.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

# Where the target's libraries were unpacked; handed on to CMake's own test projects, which read this file again.
set(SPARKJIT_TARGET_LIBRARIES "" CACHE PATH "root that holds usr/include and usr/lib for the target")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES SPARKJIT_TARGET_LIBRARIES)
if(SPARKJIT_TARGET_LIBRARIES)
  list(APPEND CMAKE_FIND_ROOT_PATH ${SPARKJIT_TARGET_LIBRARIES})
  include_directories(SYSTEM ${SPARKJIT_TARGET_LIBRARIES}/usr/include)
endif()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

find_program(SPARKJIT_QEMU NAMES qemu-aarch64 qemu-aarch64-static)
if(SPARKJIT_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${SPARKJIT_QEMU} -L /usr/aarch64-linux-gnu)
endif()
