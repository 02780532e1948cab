# Writes avid_version.h with version and commit. Included by CMakeLists.txt it makes the target that runs this file again
# (cmake -P) at every build, so that the commit is that of the built sources; the header changes only when they do.
if(CMAKE_SCRIPT_MODE_FILE)
  execute_process(COMMAND git -C ${AVID_SOURCE} rev-parse --short=12 HEAD OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE
                  RESULT_VARIABLE failed ERROR_QUIET)
  if(failed)
    set(commit "unknown")
  else()
    execute_process(COMMAND git -C ${AVID_SOURCE} status --porcelain --untracked-files=no OUTPUT_VARIABLE changes ERROR_QUIET)
    if(changes)
      string(APPEND commit "+changes")
    endif()
  endif()
  set(text "#define AVID_VERSION_TEXT \"${AVID_VERSION}\"\n#define AVID_COMMIT_TEXT \"${commit}\"\n")
  if(EXISTS ${AVID_HEADER})
    file(READ ${AVID_HEADER} before)
  endif()
  if(NOT text STREQUAL "${before}")
    file(WRITE ${AVID_HEADER} "${text}")
  endif()
else()
  set(AVID_VERSION_HEADER ${CMAKE_BINARY_DIR}/generated/avid_version.h)
  add_custom_target(avid_version BYPRODUCTS ${AVID_VERSION_HEADER}
    COMMAND ${CMAKE_COMMAND} -DAVID_SOURCE=${PROJECT_SOURCE_DIR} -DAVID_VERSION=${PROJECT_VERSION} -DAVID_HEADER=${AVID_VERSION_HEADER}
            -P ${CMAKE_CURRENT_LIST_FILE} VERBATIM)
endif()
