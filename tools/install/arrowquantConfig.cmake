# find_package(arrowquant) and target_link_libraries(... arrowquant::arrowquant): the
# header and what it links. One file of the program defines ARROWQUANT_IMPLEMENTATION;
# codecs are that file's affair (AQ_WITH_ZSTD and so on, and their libraries).

include(CMakeFindDependencyMacro)
find_dependency(Threads)

if(NOT TARGET arrowquant::arrowquant)
    # This file is in PREFIX/share/cmake/arrowquant, wherever PREFIX has been moved to.
    get_filename_component(_aq_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
    add_library(arrowquant::arrowquant INTERFACE IMPORTED)
    set_target_properties(arrowquant::arrowquant PROPERTIES
        INTERFACE_INCLUDE_DIRECTORIES "${_aq_prefix}/include"
        INTERFACE_LINK_LIBRARIES "Threads::Threads;m")
    unset(_aq_prefix)
endif()
